"""What the native routes' descriptions have in common: errors, and ids."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Path

from marmo.serve.problems import Problem
from marmo.serve.views import ErrorView

REASONS = {
    401: "No token, or a wrong one",
    403: "The token's scope is not enough",
    404: "There is none, or it is somebody else's",
    409: "The Idempotency-Key belongs to another request",
    413: "The body is too large",
    415: "The body is of another type",
    422: "What was sent means nothing, or is over a limit",
    429: "The queue is full, or too many uploads; see Retry-After",
    503: "No model is ready, or the server is closing; see Retry-After",
    507: "The disk is full",
}

Identifier = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")]
"""Of a job or a picture: letters and digits, so that no address can lead to a file."""


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer with, for its description."""
    return {status: {"model": ErrorView, "description": REASONS[status]} for status in statuses}


@contextmanager
def refused() -> Generator[None]:
    """A `ValueError` of the queue is about what the caller said."""
    try:
        yield
    except ValueError as error:
        raise Problem(422, "bad_request", str(error)) from None
