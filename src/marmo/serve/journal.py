"""The journal's engine room: one thread writes, and all that waits for the disk at the same time shares one wait.

A write is a function of the database.  The writer gathers what has come, runs each in a savepoint of one transaction,
commits (one fsync) and only then answers.  After an error it opens the database anew and tries again, so every write
must bear a second run after a commit that reported an error and happened all the same: it looks first at what is there.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from marmo.serve import tables
from marmo.serve.disk import Database, Disk, is_full

T = TypeVar("T")

ATTEMPTS = 4
PAUSE = 0.02
"""Seconds before the second attempt; doubled from there on."""
MAX_BATCH = 500
READERS = 2


class JournalError(Exception):
    """The journal could not be read or written, several times over."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the journal cannot be reached: {cause}")
        self.is_full = is_full(cause)


class _Work(Protocol):
    """A write that waits, whatever it returns."""

    def claim(self) -> bool: ...
    def run(self, database: Database) -> None: ...
    def answer(self) -> None: ...
    def fail(self, error: Exception) -> None: ...


class _Write(Generic[T]):
    """One write and its future, which learns nothing before the commit."""

    def __init__(self, function: Callable[[Database], T]) -> None:
        self.future: Future[T] = Future()
        self._function = function
        self._answer: Callable[[], None] = lambda: None

    def claim(self) -> bool:
        """Whether somebody still wants it; from now on it cannot be called off."""
        return self.future.set_running_or_notify_cancel()

    def run(self, database: Database) -> None:
        """Raises what is wrong with the database; what is wrong with the write itself is its answer."""
        database.execute("SAVEPOINT one")
        try:
            value = self._function(database)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not _is_own_fault(error):
                raise
            database.execute("ROLLBACK TO one")
            self._answer = partial(self.future.set_exception, error)
        else:
            self._answer = partial(self.future.set_result, value)
        database.execute("RELEASE one")

    def answer(self) -> None:
        self._answer()

    def fail(self, error: Exception) -> None:
        self.future.set_exception(error)


class Journal:
    """The database in one file, with its writer and its readers."""

    def __init__(self, path: Path, disk: Disk, on_full: Callable[[], None]) -> None:
        self._path, self._disk, self._on_full = path, disk, on_full
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._database: Database | None = None
        self._idle: SimpleQueue[Database] = SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, "journal-reader")
        self._writer = threading.Thread(target=self._run, name="journal-writer", daemon=True)

    def open(self) -> bool:
        """Make the tables and start the writer; whether the last end was clean.

        Raises `ValueError` for a journal that is damaged or of a newer Marmo, `JournalError` if the disk fails.
        """
        was_clean = self._retried(self._prepare)
        self._writer.start()
        return was_clean

    def write(self, function: Callable[[Database], T]) -> Future[T]:
        """Runs in the writer; done when it is on the disk.  Fails with `JournalError`, or what the function raised."""
        work = _Write(function)
        self._queue.put(work)
        return work.future

    def read(self, function: Callable[[Database], T]) -> Future[T]:
        """Runs beside the writer and sees what is committed.  Fails with `JournalError`."""
        return self._readers.submit(self._retried, partial(self._reading, function))

    def close(self) -> None:
        """Write what waits, say that the end was clean, and let go of the file."""
        self.write(tables.close_clean)
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def _prepare(self) -> bool:
        try:
            with self._dropped():
                return tables.prepare(self._connected())
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"the journal is damaged ({error}); move {self._path} away, or put a copy there"
            ) from error

    def _run(self) -> None:
        while batch := self._take():
            wanted = [work for work in batch if work.claim()]
            try:
                self._retried(partial(self._commit, wanted))
            except JournalError as error:
                for work in wanted:
                    work.fail(error)
            else:
                for work in wanted:
                    work.answer()
        self._drop()

    def _take(self) -> list[_Work]:
        """All that waits, at least one; nothing when the journal closes."""
        batch: list[_Work] = []
        while len(batch) < MAX_BATCH and not (batch and self._queue.empty()):
            work = self._queue.get()
            if work is None:
                if batch:
                    self._queue.put(None)
                break
            batch.append(work)
        return batch

    def _commit(self, batch: Sequence[_Work]) -> None:
        with self._dropped():
            database = self._connected()
            database.execute("BEGIN IMMEDIATE")
            for work in batch:
                work.run(database)
            database.execute("COMMIT")

    def _reading(self, function: Callable[[Database], T]) -> T:
        try:
            database = self._idle.get_nowait()
        except Empty:
            database = self._disk.connect(self._path)
        try:
            value = function(database)
        except sqlite3.Error:
            database.close()
            raise
        self._idle.put(database)
        return value

    def _connected(self) -> Database:
        """The writer's connection, or a new one."""
        if self._database is None:
            self._database = self._disk.connect(self._path)
        return self._database

    @contextmanager
    def _dropped(self) -> Generator[None]:
        """After an error the writer's connection goes, and with it what it had begun."""
        try:
            yield
        except sqlite3.Error:
            self._drop()
            raise

    def _drop(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _retried(self, function: Callable[[], T]) -> T:
        """Its value at the first attempt that the database bears; `JournalError` after the last."""
        for attempt in range(ATTEMPTS):
            try:
                return function()
            except sqlite3.Error as error:
                if _is_own_fault(error):
                    raise
                if attempt == ATTEMPTS - 1:
                    raise JournalError(error) from error
                if is_full(error):
                    self._on_full()
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _is_own_fault(error: sqlite3.Error) -> bool:
    """Whether it comes from what was said to SQLite, and would come again."""
    kinds = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
    return isinstance(error, kinds) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
