"""The dialects that the server offers."""

from marmo.serve.context import Dialect
from marmo.serve.dialects import a1111_routes, huggingface_routes, openai_routes


def dialects() -> tuple[Dialect, ...]:
    """One of each, for one server."""
    return (openai_routes.DIALECT, a1111_routes.dialect(), huggingface_routes.DIALECT)
