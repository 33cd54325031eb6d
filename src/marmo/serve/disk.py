"""Every operation on files and databases that the queue makes, behind one door: tests stand in it and make them fail.

Each method is one operation that either happens or raises `OSError` or `sqlite3.Error`.
"""

import errno
import os
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Value = str | int | float | bytes | None
Row = tuple[Value, ...]


class Database(Protocol):
    """A connection; transactions are begun and ended by hand, in SQL."""

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        """Run one statement; all its rows."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """Files by path, and databases."""

    def connect(self, path: Path) -> Database: ...

    def make_folder(self, path: Path) -> None:
        """With its parents; nothing happens if it is there."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """A new file; after an error half of it may be there."""
        ...

    def allocate(self, path: Path, size: int) -> None:
        """A file that takes this much room, whatever is in it."""
        ...

    def sync(self, path: Path) -> None:
        """A file's bytes, or the names in a folder, are on the disk when this returns."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Replaces what was there."""
        ...

    def remove(self, path: Path) -> None:
        """Nothing happens if it is not there."""
        ...

    def read(self, path: Path) -> bytes: ...

    def names(self, folder: Path) -> list[str]: ...

    def exists(self, path: Path) -> bool: ...

    def free(self, folder: Path) -> int:
        """Bytes that may still be written below it."""
        ...


class SqliteDatabase:
    """SQLite as the queue wants it: a commit is on the disk when it returns, and readers do not wait for the writer."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            self._connection.execute(f"PRAGMA {pragma}")

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def close(self) -> None:
        self._connection.close()


class LocalDisk:
    """The file system."""

    def connect(self, path: Path) -> Database:
        return SqliteDatabase(path)

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)

    def allocate(self, path: Path, size: int) -> None:
        with path.open("wb") as stream:
            if sys.platform == "linux":
                os.posix_fallocate(stream.fileno(), 0, size)
            else:
                stream.write(bytes(size))

    def sync(self, path: Path) -> None:
        if path.is_dir() and os.name != "posix":
            return  # Windows cannot, and does so by itself
        descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def free(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free


def is_full(error: Exception) -> bool:
    """Whether an operation failed because there is no room."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
