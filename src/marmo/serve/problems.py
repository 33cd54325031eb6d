"""What goes wrong for a caller: one sentence, one stable code, one status; each dialect gives it its own form.

A `Problem` may be raised anywhere below the doors.  Who answers it asks `Envelopes` for the form that the path's
clients read.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_RETRY_AFTER = 120
"""Seconds; clients give up on a longer wait."""


@dataclass(eq=False)
class Problem(Exception):
    """An answer that is an error.  Not frozen: Python notes on an exception where it went."""

    status: int
    code: str
    """Stable, for programs."""
    message: str
    """One sentence for people, without paths."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: Mapping[str, int | float | str] = field(default_factory=dict[str, int | float | str])
    """Numbers and names behind the sentence, such as a limit."""

    def __str__(self) -> str:
        return self.message


def busy(status: int, code: str, message: str, seconds: float, **facts: int | float | str) -> Problem:
    """One that passes: tells when to come back."""
    wait = max(1, min(MAX_RETRY_AFTER, round(seconds)))
    return Problem(status, code, message, {"Retry-After": str(wait)}, {**facts, "retry_after": wait})


Envelope = Callable[[Problem], dict[str, object]]
"""The JSON that the clients of one dialect read an error from."""


def native(problem: Problem) -> dict[str, object]:
    """Marmo's own form."""
    return {"error": {"code": problem.code, "message": problem.message, **problem.facts}}


@dataclass(frozen=True)
class Envelopes:
    """Which form an error has, by the beginning of the path."""

    dialects: Mapping[str, Envelope] = field(default_factory=dict[str, Envelope])

    def body(self, path: str, problem: Problem) -> bytes:
        """The whole answer's JSON, in ASCII: what a caller sent may come back in it, half a surrogate pair included."""
        form = next((form for prefix, form in self.dialects.items() if path.startswith(prefix)), native)
        return json.dumps(form(problem), allow_nan=False).encode()
