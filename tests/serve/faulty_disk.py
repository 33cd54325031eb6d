"""Disks for bad days: each counts the operations that go through it, and does something at one of them."""

import errno
import os
import random
import shutil
import signal
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from marmo.serve.disk import Database, LocalDisk, Row, Value

T = TypeVar("T")

Moment = Literal["before", "after"]
"""Whether the operation that fails has happened all the same."""


class QuickDisk(LocalDisk):
    """Waits for no device: what a process has written outlives its SIGKILL in the system's memory.

    Power cuts are `UnsyncedDisk`'s, which plays them by the calls to `sync`.
    """

    def connect(self, path: Path) -> Database:
        database = super().connect(path)
        database.execute("PRAGMA synchronous = OFF")
        return database

    def sync(self, path: Path) -> None:
        """Only that it is there."""
        path.stat()


class WatchedDisk(QuickDisk):
    """Calls `watch(name)` before and after every operation; what it raises is what the operation raises."""

    def __init__(self, watch: Callable[[str, Moment], None]) -> None:
        self._watch = watch

    def connect(self, path: Path) -> Database:
        return WatchedDatabase(self.do("connect", lambda: QuickDisk.connect(self, path)), self)

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
        self.do("sync", lambda: QuickDisk.sync(self, path))

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


class UnsyncedDisk(WatchedDisk):
    """Knows what a power cut may take back: bytes and names that no sync has reached.

    The database is SQLite's own affair: what it has committed, it has synced.
    """

    def __init__(self, number: int, dice: random.Random) -> None:
        super().__init__(At(number, "after", self.cut_power, CHANGES))
        self._dice = dice
        self._data: set[Path] = set()
        self._names: dict[Path, list[Callable[[], None]]] = defaultdict(list)
        """Folder -> how each change of its names is undone, in order."""
        self._lock = threading.Lock()

    def write(self, path: Path, data: bytes) -> None:
        with self._lock:
            self._data.add(path)
            self._names[path.parent].append(partial(path.unlink, missing_ok=True))
        super().write(path, data)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        with self._lock:
            if old in self._data:
                self._data.add(new)
            self._names[new.parent].append(lambda: new.replace(old) if new.exists() else None)

    def make_folder(self, path: Path) -> None:
        if not path.exists():
            with self._lock:
                self._names[path.parent].append(partial(shutil.rmtree, path, ignore_errors=True))
        super().make_folder(path)

    def remove(self, path: Path) -> None:
        if path.exists():
            data = path.read_bytes()
            with self._lock:
                self._names[path.parent].append(lambda: path.write_bytes(data) and None)
        super().remove(path)

    def sync(self, path: Path) -> None:
        super().sync(path)
        with self._lock:
            self._data.discard(path)
            self._names.pop(path, None)

    def cut_power(self, name: str) -> None:
        """Of what was not synced, each file is lost from some byte and the names of each folder from some change."""
        dice = self._dice
        for path in sorted(self._data):
            if path.is_file() and dice.random() < 0.5:
                os.truncate(path, dice.randrange(path.stat().st_size + 1))
        for undo in self._names.values():
            for step in reversed(undo[dice.randrange(len(undo) + 1) :]):
                step()
        kill_me(name)


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
