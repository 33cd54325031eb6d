"""JSON that means nothing, for property tests: small, quick to make, and with the odd useful word in it."""

from hypothesis import strategies as st

LETTERS = 'ab-1/.:,"{}[]%é狐\0\n'


def garbage(*words: str) -> st.SearchStrategy[object]:
    """Values of every kind, nested a little; `words` are texts that mean something."""
    numbers = st.sampled_from([0, 1, -1, 7, 64, 2**63, -(2**70), 0.5, 1e308, -0.0, float("inf"), float("nan")])
    texts = st.text(LETTERS, max_size=12) | st.sampled_from(["", *words])
    plain = st.none() | st.booleans() | numbers | texts
    lists = st.lists(plain, max_size=2)
    return plain | lists | st.dictionaries(st.text(LETTERS, max_size=3), plain | lists, max_size=2)


def bodies(names: list[str], *words: str) -> st.SearchStrategy[dict[str, object]]:
    """Objects with some of these names."""
    return st.dictionaries(st.sampled_from(names), garbage(*words), max_size=5)
