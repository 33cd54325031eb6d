"""The server's own log: one JSON object a line, made of an allow-list of fields.

What a caller sends never gets here: no prompt, no header, no query, no body, no path beyond its route's pattern, no
text of an exception that could quote them.  So there is nothing to redact.
"""

import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Literal, TextIO, get_args

Field = Literal[
    "event", "time", "method", "route", "status", "seconds", "bytes", "user", "job", "attempt", "state", "code",
    "error", "where", "count", "pid", "port", "signal",
]  # fmt: skip
FIELDS: frozenset[str] = frozenset(get_args(Field))

Value = str | int | float | None


@dataclass(frozen=True)
class Log:
    """Writes lines; `None` for silence."""

    stream: TextIO | None = sys.stderr

    def write(self, event: str, **fields: Value) -> None:
        """One line.  A field that is not on the list is our mistake, and shall not be found in production."""
        assert fields.keys() <= FIELDS, f"not on the list of logged fields: {sorted(fields.keys() - FIELDS)}"
        if self.stream is None:
            return
        said = {name: value for name, value in fields.items() if value is not None}
        row: dict[str, Value] = {"time": round(time.time(), 3), "event": event, **said}
        print(json.dumps(row, ensure_ascii=True), file=self.stream, flush=True)

    def failure(self, error: BaseException, **fields: Value) -> None:
        """An exception that nobody expected: its class and where it was raised, without its words."""
        self.write("failure", error=type(error).__name__, where=_where(error.__traceback__), **fields)


def _where(traceback: TracebackType | None) -> str:
    """The innermost frames, as file:line, innermost first."""
    places: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{PurePath(code.co_filename).name}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return " < ".join(reversed(places[-6:]))


class Bridge(logging.Handler):
    """What libraries log through Python's `logging`, reduced to who, where and which exception: never their words."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        place = f"{record.name}:{record.lineno}"
        self.log.write(
            "library",
            code=record.levelname.lower(),
            where=place if error is None else f"{place} < {_where(error.__traceback__)}",
            error=None if error is None else type(error).__name__,
        )
