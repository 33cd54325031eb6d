"""Files that appear whole or not at all, and never on top of another."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Generator[BinaryIO]:
    """A stream that becomes the file `path`, replacing what was there, once the block has ended well.

    Until then, and for ever if the block raises, `path` is as it was.
    """
    # Opened by hand: `tempfile` would leave the file readable by its owner alone, whatever the umask says.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def claim(path: Path) -> Generator[Path]:
    """The first of `fox.png`, `fox-2.png`, `fox-3.png`, ... that nobody has, and that nobody else gets meanwhile.

    An empty file holds the name; it goes away again if the block has not written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    claimed = _create_first(path)
    try:
        yield claimed
    finally:
        if claimed.exists() and claimed.stat().st_size == 0:
            claimed.unlink()


def _create_first(path: Path) -> Path:
    candidate = path
    for number in count(2):
        try:
            candidate.open("xb").close()
        except FileExistsError:
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        else:
            break
    return candidate
