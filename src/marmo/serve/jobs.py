"""The durable queue as routes and dialects see it: submit, follow, cancel, and what became of it.

    jobs = Jobs(folder, engine)
    async with jobs.opened():
        job = await jobs.submit(request, owner="ann")      # in the journal before this returns
        async for event in jobs.follow(job.id): ...
        data = await jobs.picture(job.images[0])

Everything here runs in one event loop; nothing in it blocks that loop on a disk.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from marmo.files.record import Record
from marmo.request import ImageRequest
from marmo.serve.contract import Engine, Model
from marmo.serve.job import Health, ImageQuery, Job, JobEvent, JobQuery, Page, StoredImage


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may wait."""

    waiting: int = 20_000
    """Jobs in the queue."""
    per_owner: int = 10_000
    """Of them one owner's."""
    reserve: int = 64 << 20
    """Bytes on the disk that only the journal's last words may use."""


class Jobs:
    """The queue in one folder, before one engine."""

    def __init__(self, folder: Path, engine: Engine, limits: Limits = Limits()) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Take up what the journal holds and start the engine; at the end park what runs and close.

        Raises `ValueError` where another server holds the folder or the journal is damaged.
        """
        raise NotImplementedError
        yield

    async def submit(self, request: ImageRequest, owner: str, key: str | None = None, priority: int = 0) -> Job:
        """A job that nothing but its own end can lose any more.

        Args:
            request: as the client made it, images as bytes, the model as an id or `None` for the first.
            owner: whose job it is; users take turns.
            key: the Idempotency-Key; the same key with the same request gives the same job again.
            priority: -2 to 2; 1 for people who wait, -1 for work in the background.

        Raises:
            ValueError: the request cannot be painted by this model; in one sentence.
            UnknownModel: a `ValueError` too.
            QueueFull, DiskFull, Draining, Unready, KeyConflict: see there.
        """
        raise NotImplementedError

    async def get(self, job: str, owner: str | None = None) -> Job:
        """The job as it is now.  With an owner, only that owner's; raises `Unknown`."""
        raise NotImplementedError

    async def find(self, query: JobQuery = JobQuery(), after: str | None = None, limit: int = 50) -> Page[Job]:
        """The newest first; `after` is an earlier page's `next`.  Raises `ValueError` for another `after`."""
        raise NotImplementedError

    async def cancel(self, job: str, owner: str | None = None) -> Job:
        """Stop it: at once if it waits, at its next step if it runs, not at all if it has ended.

        The job that is returned may be running still; `wait` shows its end.  Raises `Unknown`.
        """
        raise NotImplementedError

    def follow(self, job: str, after: int = 0, owner: str | None = None) -> AsyncIterator[JobEvent]:
        """Events with a `seq` above `after`, first those that were, then as they come; ends with the job.

        A reader that is too slow misses previews first, then steps, never a change of state; memory stays bounded.
        Raises `Unknown` when first read.
        """
        raise NotImplementedError

    async def wait(self, job: str) -> Job:
        """The job when it has ended."""
        raise NotImplementedError

    async def image(self, image: str, owner: str | None = None) -> StoredImage:
        """Raises `Unknown`."""
        raise NotImplementedError

    async def find_images(
        self, query: ImageQuery = ImageQuery(), after: str | None = None, limit: int = 50
    ) -> Page[StoredImage]:
        """The newest first; `after` is an earlier page's `next`.  Raises `ValueError` for another `after`."""
        raise NotImplementedError

    async def picture(self, image: str, owner: str | None = None) -> bytes:
        """The PNG file, checked against its hash; raises `Unknown`."""
        raise NotImplementedError

    async def thumbnail(self, image: str, owner: str | None = None) -> bytes:
        """A WebP file of at most 320 pixels a side; raises `Unknown`."""
        raise NotImplementedError

    async def record(self, image: str, owner: str | None = None) -> Record:
        """What the PNG says about itself; raises `Unknown`."""
        raise NotImplementedError

    async def mark(
        self,
        image: str,
        owner: str | None = None,
        starred: bool | None = None,
        board: str | Literal[False] | None = None,
    ) -> StoredImage:
        """Give or take a star; put it on a board, or with `False` on none; `None` leaves both.  Raises `Unknown`."""
        raise NotImplementedError

    async def trash(self, image: str, owner: str | None = None) -> StoredImage:
        """Into the trash, from where it goes for good after 30 days; raises `Unknown`."""
        raise NotImplementedError

    async def restore(self, image: str, owner: str | None = None) -> StoredImage:
        """Out of the trash again; raises `Unknown`."""
        raise NotImplementedError

    async def boards(self, owner: str | None = None) -> Mapping[str, int]:
        """Board -> how many pictures outside the trash it has."""
        raise NotImplementedError

    @property
    def models(self) -> tuple[Model, ...]:
        """What the engine can paint with; empty until it is ready.  The first is the default."""
        raise NotImplementedError

    def model(self, id: str | None = None) -> Model:
        """One of them, by default the first; raises `UnknownModel`, and `Unready` while there is none."""
        raise NotImplementedError

    def health(self) -> Health:
        raise NotImplementedError

    def metrics(self) -> Mapping[str, float]:
        """Counters (names that end in `_total`) and gauges, for `/metrics`."""
        raise NotImplementedError

    async def drain(self, seconds: float) -> None:
        """Take no more jobs; give running ones this long, then park them; called again, the shorter time counts.

        `opened` ends after it; a job that was parked goes on when the folder is opened again.
        """
        raise NotImplementedError
