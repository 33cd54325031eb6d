"""Disks for bad days: each counts the operations that go through it, and does something at one of them."""

import errno
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from marmo.serve.disk import Database, LocalDisk, Row, Value

T = TypeVar("T")

Moment = Literal["before", "after"]
"""Whether the operation that fails has happened all the same."""


class WatchedDisk(LocalDisk):
    """Calls `watch(name)` before and after every operation; what it raises is what the operation raises."""

    def __init__(self, watch: Callable[[str, Moment], None]) -> None:
        self._watch = watch

    def connect(self, path: Path) -> Database:
        return WatchedDatabase(self.do("connect", lambda: LocalDisk.connect(self, path)), self)

    def make_folder(self, path: Path) -> None:
        self.do("make_folder", lambda: LocalDisk.make_folder(self, path))

    def write(self, path: Path, data: bytes) -> None:
        self._watch("write", "before")
        super().write(path, data[: len(data) // 2])  # what a torn write leaves
        self._watch("write", "after")
        super().write(path, data)

    def allocate(self, path: Path, size: int) -> None:
        self.do("allocate", lambda: LocalDisk.allocate(self, path, size))

    def sync(self, path: Path) -> None:
        self.do("sync", lambda: LocalDisk.sync(self, path))

    def rename(self, old: Path, new: Path) -> None:
        self.do("rename", lambda: LocalDisk.rename(self, old, new))

    def remove(self, path: Path) -> None:
        self.do("remove", lambda: LocalDisk.remove(self, path))

    def read(self, path: Path) -> bytes:
        return self.do("read", lambda: LocalDisk.read(self, path))

    def names(self, folder: Path) -> list[str]:
        return self.do("names", lambda: LocalDisk.names(self, folder))

    def exists(self, path: Path) -> bool:
        return self.do("exists", lambda: LocalDisk.exists(self, path))

    def free(self, folder: Path) -> int:
        return self.do("free", lambda: LocalDisk.free(self, folder))

    def do(self, name: str, operation: Callable[[], T]) -> T:
        self._watch(name, "before")
        value = operation()
        self._watch(name, "after")
        return value


class WatchedDatabase:
    """Statements by their first word: `SELECT`, `INSERT`, `COMMIT`, ..."""

    def __init__(self, database: Database, disk: WatchedDisk) -> None:
        self._database, self._disk = database, disk

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        return self._disk.do(sql.split()[0], lambda: self._database.execute(sql, values))

    def close(self) -> None:
        self._database.close()


class At:
    """Something happens at the operation with this number, counted from 0 in the order in which they come."""

    def __init__(
        self, number: int, moment: Moment, act: Callable[[str], None], names: frozenset[str] | None = None
    ) -> None:
        self._number, self._moment, self._act, self._names = number, moment, act, names
        self._count, self._lock = 0, threading.Lock()
        self.name: str | None = None
        """Of the operation; `None` while it has not come."""

    def __call__(self, name: str, moment: Moment) -> None:
        if moment != self._moment or (self._names is not None and name not in self._names):
            return
        with self._lock:
            number, self._count = self._count, self._count + 1
        if number == self._number:
            self.name = name
            self._act(name)


def is_statement(name: str) -> bool:
    return name.isupper() or name == "connect"


def input_output_error(name: str) -> None:
    """As a bad disk says it, to SQLite's users and to others."""
    if is_statement(name):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error
    raise OSError(errno.EIO, "Input/output error")


def no_space(name: str) -> None:
    """As a full disk says it."""
    if is_statement(name):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error
    raise OSError(errno.ENOSPC, "No space left on device")


def kill_me(name: str) -> None:
    """Nothing of this process happens after it."""
    os.kill(os.getpid(), signal.SIGKILL)


CHANGES = frozenset({"connect", "make_folder", "write", "allocate", "rename", "remove", "COMMIT"})
"""Operations that change what is on the disk; to be killed at any other is to be killed after one of these."""
