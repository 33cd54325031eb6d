"""Who may put a job into the queue now, and what the others are told."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from marmo.serve.dispatching import Dispatcher
from marmo.serve.job import DiskFull, Draining, QueueFull, Refusal, Unready
from marmo.serve.journal import JournalError
from marmo.serve.prospect import Prospect
from marmo.serve.storage import Storage

MARGIN = 4 << 20
"""Bytes that a submission leaves free beside what it needs itself."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may wait, and what is kept free."""

    waiting: int = 20_000
    """Jobs in the queue."""
    per_owner: int = 10_000
    """Of them one owner's."""
    reserve: int = 64 << 20
    """Bytes on the disk that only the journal's last words may use."""


USUAL = Limits()


class Admission:
    """The queue's limits and the disk's.  Jobs on their way into the journal count as waiting."""

    def __init__(self, limits: Limits, storage: Storage, line: Dispatcher, prospect: Prospect) -> None:
        self._limits, self._storage, self._line, self._prospect = limits, storage, line, prospect
        self._arriving = Counter[str]()
        self.refused = 0

    def enter(self, owner: str, num_bytes: int) -> None:
        """Let a job in that will need so many bytes on the disk; `leave` follows when it waits, or does not.

        Raises `Draining`, `QueueFull`, `DiskFull`, `Unready`.
        """
        if self._line.is_draining:
            raise Draining
        self._check_line("server", len(self._line.schedule) + self._arriving.total(), self._limits.waiting)
        self._check_line("owner", self._line.schedule.waiting(owner) + self._arriving[owner], self._limits.per_owner)
        self._check_disk(num_bytes)
        self._arriving[owner] += 1

    def leave(self, owner: str) -> None:
        """It is in the queue, or will never be."""
        self._arriving.subtract([owner])
        self._arriving += Counter()  # forget who is at zero

    def _check_line(self, whose: Literal["server", "owner"], waiting: int, limit: int) -> None:
        if waiting >= limit:
            self.refused += 1
            raise QueueFull(limit, waiting, self._prospect.next_end(), whose)

    def _check_disk(self, needed: int) -> None:
        try:
            free = self._storage.free()
        except OSError as error:
            raise self.excuse(error) from error
        if free < needed + MARGIN:
            self.refused += 1
            raise DiskFull(needed + MARGIN)

    def excuse(self, error: JournalError | OSError) -> Refusal:
        """What to tell the client whose job could not be written."""
        self._storage.note(error)
        self.refused += 1
        return DiskFull(MARGIN) if self._storage.is_full else Unready("the journal cannot be written now; try again")


def picture_bytes(number: int, size: tuple[int, int]) -> int:
    """The most that pictures of this size may take: what PNG makes of noise."""
    return 4 * number * size[0] * size[1]
