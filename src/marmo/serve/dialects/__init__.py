"""Other programs' HTTP interfaces: for each a pure function from its body to a request, and a thin router."""
