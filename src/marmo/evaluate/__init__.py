"""Numbers about pictures: they take folders, features or callables, never a pipeline."""
