"""Copies of the journal, one a day, so that a lost or damaged one is not the end of the queue and the gallery's names.

    backups/jobs-2026-11-21.sqlite

A copy is a database of its own (`VACUUM INTO`, SQLite's way to copy one that is in use): a temporary file, fsync,
rename, fsync the folder.  A mark in it says that it is a copy: whoever starts from it may find pictures on the disk
that were painted later, and must not take them for orphans of a crash.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from marmo.serve.disk import Database, Disk

MARGIN = 64 << 20
"""Bytes that must stay free beside a copy."""
COPIED = "copied"
"""The mark: a fact of the journal, the Unix time of the copy."""
PARTIAL = ".partial.sqlite"


@dataclass(frozen=True)
class Plan:
    """Where copies go, and how many are kept."""

    folder: Path
    keep: int = 7

    def __post_init__(self) -> None:
        assert self.keep > 0, "whoever keeps none has no plan"


class NoRoom(OSError):
    """The disk has no room for a copy."""


class Backups:
    """Makes the copies of one journal; one thread at a time may use it."""

    def __init__(self, journal: Path, plan: Plan, disk: Disk) -> None:
        self._journal, self._plan, self._disk = journal, plan, disk

    def make(self, now: float) -> bool:
        """Make the day's copy (UTC) unless it is there; whether one was made.  Raises `OSError`, `sqlite3.Error`.

        The oldest go beyond `keep`, but never for a copy that did not come to be.
        """
        name = time.strftime("jobs-%Y-%m-%d.sqlite", time.gmtime(now))
        folder = self._plan.folder
        self._disk.make_folder(folder)
        if name in self._copies():
            return False
        partial = folder / PARTIAL
        for left in (partial, *(folder / f"{PARTIAL}-{more}" for more in ("wal", "shm", "journal"))):
            self._disk.remove(left)
        self._copy(partial, now)
        self._disk.sync(partial)
        self._disk.rename(partial, folder / name)
        self._disk.sync(folder)
        for old in [copy for copy in self._copies() if copy != name][: -self._plan.keep + 1 or None]:
            self._disk.remove(folder / old)
        return True

    def _copy(self, target: Path, now: float) -> None:
        with closing(self._disk.connect(self._journal)) as database:
            ((pages,),), ((size,),) = (database.execute(f"PRAGMA {what}") for what in ("page_count", "page_size"))
            if self._disk.free(target.parent) < cast(int, pages) * cast(int, size) + MARGIN:
                raise NoRoom("there is no room for a copy of the journal")
            database.execute("VACUUM INTO ?", (str(target),))
        with closing(self._disk.connect(target)) as copy:
            copy.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (COPIED, f"{now:.0f}"))

    def _copies(self) -> Sequence[str]:
        """Names, the oldest first."""
        return sorted(name for name in self._disk.names(self._plan.folder) if name.startswith("jobs-"))


def is_copy(database: Database) -> bool:
    """Whether the journal was put back from a copy and `settle` has not been called since."""
    return bool(database.execute("SELECT 1 FROM facts WHERE name = ?", (COPIED,)))


def settle(database: Database) -> None:
    """From now on it is the journal itself."""
    database.execute("DELETE FROM facts WHERE name = ?", (COPIED,))
