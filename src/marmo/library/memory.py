"""What was found, remembered from run to run: a model is opened again only when a file of it changes, or Marmo does."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from marmo.files.atomic import atomic_write
from marmo.library.identify import Found
from marmo.library.scan import Candidate
from marmo.version import VERSION
from marmo.weights.fingerprint import cache_folder

MAX_CACHE = 1 << 28  # bytes
_ROWS = TypeAdapter(dict[str, Found])


def remembered(things: Iterable[Candidate], identify: Callable[[Candidate], Found]) -> Iterator[Found]:
    """Each thing, identified, or as it was found before.  A cache that cannot be read or written only costs time."""
    code, known, new = _code(), _read(), dict[str, Found]()
    for candidate in things:
        stamp = _stamp(candidate, code)
        found = known.get(stamp)
        if found is None:
            found = new[stamp] = identify(candidate)
        yield found
    if new:
        fresh = {found.path for found in new.values()}
        _write({stamp: found for stamp, found in known.items() if found.path not in fresh} | new)


def _stamp(candidate: Candidate, code: str) -> str:
    """Changes with every file of the candidate that is added, taken away or written."""
    path = candidate.path
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256(f"{code}\n{candidate.origin}\n{candidate.name}".encode())
    for file in files:
        status = file.stat() if file.exists() else file.lstat()
        digest.update(f"\n{file}:{status.st_size}:{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _code() -> str:
    """Another Marmo may know more kinds of models."""
    root = Path(__file__).parents[1]
    newest = max(os.stat(file).st_mtime_ns for file in root.rglob("*.py"))
    return f"{VERSION}:{newest}"


def _read() -> dict[str, Found]:
    file = cache_folder() / "models.json"
    try:
        return _ROWS.validate_json(file.read_bytes()) if file.stat().st_size <= MAX_CACHE else {}
    except (OSError, ValidationError, ValueError):
        return {}


def _write(rows: dict[str, Found]) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with atomic_write(cache_folder() / "models.json") as file:
            file.write(_ROWS.dump_json(rows))
    except OSError:
        return
