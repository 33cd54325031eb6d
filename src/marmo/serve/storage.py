"""One folder on the disk, for asynchronous code: the journal, the files and the reserve, and whether they are well.

jobs.sqlite     the journal
files/          pictures by hash
thumbnails/     made when asked for
unnamed/        pictures that a journal put back from a copy does not know
backups/        copies of the journal
reserve         room for the journal on a full disk
.lock           held by the server that is at work here
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from marmo.files.lock import held
from marmo.serve import backups, gallery
from marmo.serve.backups import Backups, Plan
from marmo.serve.disk import Database, Disk, is_full
from marmo.serve.journal import Journal, JournalError
from marmo.serve.reserve import Reserve
from marmo.serve.results import Results

T = TypeVar("T")

FULL = "the disk is full"
MIN_FREE = 4 << 20
"""Bytes; with less a full disk stays full."""
THREADS = 4
"""That wait for files."""


class Storage:
    """What the queue keeps on the disk.  Nothing here blocks the event loop."""

    def __init__(self, folder: Path, disk: Disk, reserve: int, copies: Plan | None = None) -> None:
        self.folder, self._disk = folder, disk
        self.reserve = Reserve(folder / "reserve", reserve, disk)
        self.journal = Journal(folder / "jobs.sqlite", disk, self.reserve.release)
        self.results = Results(folder, disk)
        self._backups = None if copies is None else Backups(folder / "jobs.sqlite", copies, disk)
        self.trouble: str | None = None
        """Why nothing can be written; None while it can."""
        self.has_trouble = asyncio.Event()
        self._pool = ThreadPoolExecutor(THREADS, "files")

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Raises `ValueError` where another server is at work or the journal is damaged, `JournalError`, `OSError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder):
            await self.in_thread(self._open)
            try:
                yield
            finally:
                await self.in_thread(self.journal.close)
                self._pool.shutdown()

    async def write(self, function: Callable[[Database], T]) -> T:
        """A write that is on the disk.  Raises `JournalError`, or what the function raises."""
        return await asyncio.wrap_future(self.journal.write(function))

    async def read(self, function: Callable[[Database], T]) -> T:
        """Raises `JournalError`, or what the function raises."""
        return await asyncio.wrap_future(self.journal.read(function))

    async def in_thread(self, function: Callable[[], T]) -> T:
        """What waits for files."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def write_with(self, data: Sequence[bytes], function: Callable[[Sequence[str], Database], T]) -> T:
        """First the files, then the write that names them by their hashes."""

        def work() -> T:
            with self.results.holding(data) as hashes:
                return self.journal.write(partial(function, hashes)).result()

        return await self.in_thread(work)

    @property
    def is_full(self) -> bool:
        return self.trouble == FULL

    @property
    def is_well(self) -> bool:
        return self.trouble is None and self.reserve.is_held

    def free(self) -> int:
        """Bytes for others than the journal; 0 from a full disk on until the reserve is back."""
        return self._disk.free(self.folder) if self.reserve.is_held else 0

    def note(self, error: Exception) -> None:
        """Something could not be written."""
        full = error.is_full if isinstance(error, JournalError) else is_full(error)
        self.has_trouble.set()
        self.trouble = FULL if full else "the disk cannot be written"

    async def heal(self) -> bool:
        """Whether all is well, or well again: the journal takes a write and the reserve is held."""
        try:
            if self.trouble is not None:
                await self.write(_probe)
            has_room = await self.in_thread(self.reserve.take) and self.free() >= MIN_FREE
            self.trouble = None if has_room else FULL
        except (JournalError, OSError) as error:
            self.note(error)
        if self.trouble is None:
            self.has_trouble.clear()
        return self.trouble is None

    async def sweep(self) -> None:
        """Remove the files that no row names; where the journal is an older copy, they move to `unnamed` instead."""
        keeps = await self.read(backups.is_copy)
        for folder in await self.in_thread(self.results.folders):
            await self.write(lambda database, folder=folder: self._sweep(database, folder, keeps))
        if keeps:
            await self.write(backups.settle)

    async def back_up(self, now: float) -> bool:
        """Copy the journal, unless the day has its copy or none are wished; whether that was done.

        Raises `OSError`, `sqlite3.Error`.
        """
        copies = self._backups
        return copies is not None and await self.in_thread(lambda: copies.make(now))

    async def purge(self, now: float) -> None:
        """Remove for good what has been in the trash for 30 days."""
        hashes = await self.write(lambda database: gallery.purge(database, now))
        if hashes:
            await self.write(lambda database: self.results.remove(gallery.unused(database, hashes)))

    def _open(self) -> None:
        self.results.open()
        self.reserve.take()
        self.journal.open()

    def _sweep(self, database: Database, folder: str, keeps: bool) -> None:
        """In the writer's thread, so that no row can come to name a file between the look and the removal."""
        self.results.sweep(folder, lambda names: gallery.unused(database, names), keeps)


def _probe(database: Database) -> None:
    database.execute("INSERT OR REPLACE INTO facts VALUES ('probe', '1')")
