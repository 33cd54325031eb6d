"""The durable queue as routes and dialects see it: submit, follow, cancel, and what became of it.

    jobs = Jobs(folder, engine)
    async with jobs.opened():
        job = await jobs.submit(request, owner="ann")      # in the journal before this returns
        async for event in jobs.follow(job.id): ...
        data = await jobs.picture(job.images[0])

Everything here runs in one event loop; nothing in it blocks that loop on a disk.
"""

import asyncio
import hashlib
import secrets
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeVar

from marmo.files.pictures import find_record
from marmo.files.record import Record
from marmo.request import ImageRequest
from marmo.serve import gallery, rows
from marmo.serve.admission import USUAL, Admission, Limits, picture_bytes
from marmo.serve.backups import Plan
from marmo.serve.clock import SYSTEM, Clock, Watch
from marmo.serve.contract import Engine, Model
from marmo.serve.disk import Database, Disk, LocalDisk
from marmo.serve.dispatching import PLAIN, Dispatcher, Style
from marmo.serve.forecasting import work_of
from marmo.serve.hub import Hub
from marmo.serve.inputs import detach
from marmo.serve.job import (
    MAX_PRIORITY,
    Health,
    ImageQuery,
    Job,
    JobEvent,
    JobQuery,
    Page,
    StoredImage,
    Unknown,
    UnknownModel,
    Unready,
)
from marmo.serve.journal import JournalError
from marmo.serve.limits import final_size, resolved
from marmo.serve.prospect import Prospect
from marmo.serve.rows import Change, NewJob, Waiting
from marmo.serve.storage import Storage

T = TypeVar("T")

TICK = 1.0
"""Seconds between two looks at the disk and at the queue's order."""


LOOK = 600.0
"""Seconds between two looks at whether the journal is to be copied."""


class Jobs:
    """The queue in one folder, before one engine."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        limits: Limits = USUAL,
        style: Style = PLAIN,
        disk: Disk | None = None,
        clock: Clock = SYSTEM,
        copies: Plan | None = None,
    ) -> None:
        self._clock = clock
        self._storage = Storage(folder, disk or LocalDisk(), limits.reserve, copies)
        self._copied = Counter[str]()
        self._hub = Hub()
        self._line = Dispatcher(engine, self._storage, self._hub, clock, style)
        self._prospect = Prospect(self._line, clock)
        self._admission = Admission(limits, self._storage, self._line, self._prospect)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Take up what the journal holds and start the engine; at the end park what runs and close.

        Raises `ValueError` where another server holds the folder or the journal is damaged.
        """
        async with self._storage.opened():
            recover = partial(rows.recover, now=self._clock.wall())
            for row in await self._storage.write(recover):
                self._line.add(row)
            self._line.start()
            work = (self._keep_house(), self._storage.sweep(), self._keep_copies())
            chores = [asyncio.create_task(chore) for chore in work]
            try:
                yield
            finally:
                if not self._line.is_draining:
                    await self.drain(0)
                for chore in chores:
                    chore.cancel()
                await asyncio.gather(*chores, return_exceptions=True)
                await self._line.close()

    # Jobs

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
        if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
            raise ValueError(f"priority is {-MAX_PRIORITY} to {MAX_PRIORITY}, not {priority}")
        digest = _digest(request)
        if key is not None:
            known = await self._read(partial(rows.find_key, owner=owner, key=key, digest=digest))
            if known is not None:
                return await self.get(known)
        model = self.model(request.model)
        whole = resolved(request.model_copy(update={"model": model.id}), model.defaults)
        size = final_size(whole, model.defaults)
        bare, pictures = detach(whole)
        self._admission.enter(owner, sum(map(len, pictures.values())) + picture_bytes(whole.num_images, size))
        new = NewJob(
            id=secrets.token_hex(16), owner=owner, key=key, digest=digest, priority=priority, request=bare,
            inputs={}, work=work_of(bare, size), created=self._clock.wall(),
        )  # fmt: skip
        return await asyncio.shield(asyncio.ensure_future(self._enter(new, pictures)))

    async def get(self, job: str, owner: str | None = None) -> Job:
        """The job as it is now.  With an owner, only that owner's; raises `Unknown`."""
        return self._prospect.show(await self._read(partial(rows.get, id=job, owner=owner)))

    async def find(self, query: JobQuery, after: str | None = None, limit: int = 50) -> Page[Job]:
        """The newest first; `after` is an earlier page's `next`.  Raises `ValueError` for another `after`."""
        page = await self._read(partial(rows.find, query=query, after=after, limit=limit))
        return Page(tuple(map(self._prospect.show, page.items)), page.next)

    async def cancel(self, job: str, owner: str | None = None) -> Job:
        """Stop it: at once if it waits, at its next step if it runs, not at all if it has ended.

        The job that is returned may be running still; `wait` shows its end.  Raises `Unknown`.
        """
        known = await self.get(job, owner)
        if known.ended:
            return known
        await asyncio.shield(asyncio.ensure_future(self._cancel(job)))
        return await self.get(job)

    async def follow(self, job: str, after: int = 0, owner: str | None = None) -> AsyncGenerator[JobEvent]:
        """Events with a `seq` above `after`, first those that were, then as they come.

        Ends with the job, or when the server closes.  A reader that is too slow misses previews first, then steps,
        never a change of state; memory stays bounded.  Raises `Unknown` when first read.
        """
        with self._hub.listening(job) as listener:
            known, past = await self._read(partial(rows.events, id=job, owner=owner, after=after))
            self._hub.know(job, past[-1].seq if past else after, known.ended)
            self._prospect.introduce(job)
            last = after
            for event in [*past, *self._hub.newest(job)]:
                if event.seq > last:
                    last = event.seq
                    yield event
            while not known.ended and (event := await listener.get()) is not None:
                if event.seq > last:
                    last = event.seq
                    yield event
                    if event.ends:
                        return

    async def wait(self, job: str) -> Job:
        """The job when it has ended, or when the server closes."""
        async for _ in self.follow(job):
            pass
        return await self.get(job)

    # Pictures

    async def image(self, image: str, owner: str | None = None) -> StoredImage:
        """Raises `Unknown`."""
        return await self._read(partial(gallery.get, id=image, owner=owner))

    async def find_images(self, query: ImageQuery, after: str | None = None, limit: int = 50) -> Page[StoredImage]:
        """The newest first; `after` is an earlier page's `next`.  Raises `ValueError` for another `after`."""
        return await self._read(partial(gallery.find, query=query, after=after, limit=limit))

    async def picture(self, image: str, owner: str | None = None) -> bytes:
        """The PNG file, checked against its hash; raises `Unknown`."""
        stored = await self.image(image, owner)
        return await self._file(partial(self._storage.results.read, stored.sha256))

    async def thumbnail(self, image: str, owner: str | None = None) -> bytes:
        """A WebP file of at most 320 pixels a side; raises `Unknown`."""
        stored = await self.image(image, owner)
        return await self._file(partial(self._storage.results.thumbnail, stored.sha256))

    async def record(self, image: str, owner: str | None = None) -> Record:
        """What the PNG says about itself; raises `Unknown`."""
        data = await self.picture(image, owner)
        try:
            return await self._storage.in_thread(lambda: find_record(BytesIO(data)))
        except ValueError as error:
            raise Unknown(str(error)) from error

    async def mark(
        self,
        image: str,
        owner: str | None = None,
        starred: bool | None = None,
        board: str | Literal[False] | None = None,
    ) -> StoredImage:
        """Give or take a star; put it on a board, or with `False` on none; `None` leaves both.  Raises `Unknown`."""
        return await self._write(partial(gallery.mark, id=image, owner=owner, starred=starred, board=board))

    async def trash(self, image: str, owner: str | None = None) -> StoredImage:
        """Into the trash, from where it goes for good after 30 days; raises `Unknown`."""
        return await self._write(partial(gallery.trash, id=image, owner=owner, now=self._clock.wall()))

    async def restore(self, image: str, owner: str | None = None) -> StoredImage:
        """Out of the trash again; raises `Unknown`."""
        return await self._write(partial(gallery.restore, id=image, owner=owner))

    async def boards(self, owner: str | None = None) -> Mapping[str, int]:
        """Board -> how many pictures outside the trash it has."""
        return await self._read(partial(gallery.boards, owner=owner))

    # The server

    @property
    def models(self) -> tuple[Model, ...]:
        """What the engine can paint with; empty until it is ready.  The first is the default."""
        return tuple(model for model in self._line.models if model.defaults.paints)

    @property
    def upscalers(self) -> tuple[Model, ...]:
        """What it can only enlarge pictures with."""
        return tuple(model for model in self._line.models if not model.defaults.paints)

    def model(self, id: str | None = None) -> Model:
        """Any of both, by default the first that paints.

        Raises `UnknownModel`, and `Unready` while there is none or this one may yet be found.
        """
        known = (*self.models, *self.upscalers)
        if not known or (id is None and not self.models):
            raise Unready("no model is ready yet")
        for model in known:
            if id in (None, model.id):
                return model
        if not self._line.knows_all:
            raise Unready("the models are still being read; try again")
        raise UnknownModel(f"there is no model {str(id)[:100]!r}; there are {', '.join(m.id for m in known)}")

    def health(self) -> Health:
        """Whether new jobs would be taken and painted."""
        reasons = [
            *(["the server is closing"] if self._line.is_draining else []),
            *([self._line.trouble] if self._line.trouble else []),
            *([self._storage.trouble] if self._storage.trouble else []),
        ]
        return Health(not reasons, tuple(reasons))

    def metrics(self) -> Mapping[str, float]:
        """Counters (names that end in `_total`) and gauges, for `/metrics`."""
        ends = ("succeeded", "failed", "cancelled", "quarantined", "parked")
        return {
            **{f"jobs_{end}_total": self._line.counts[end] for end in ends},
            "jobs_submitted_total": self._line.counts["submitted"],
            "jobs_refused_total": self._admission.refused,
            "steps_total": self._line.counts["steps"],
            "worker_deaths_total": self._line.counts["worker_deaths"],
            "jobs_waiting": len(self._line.schedule),
            "jobs_running": len(self._line.in_hand),
            "journal_copies_total": self._copied["made"],
            "journal_copies_failed_total": self._copied["failed"],
            "listeners": self._hub.listeners,
            "disk_trouble": float(self._storage.trouble is not None),
        }

    async def drain(self, seconds: float) -> None:
        """Take no more jobs; give running ones this long, then park them; called again, the shorter time counts.

        Whoever follows a job is let go.  A job that was parked goes on when the folder is opened again.
        """
        await self._line.drain(seconds)
        self._hub.close()

    async def _enter(self, new: NewJob, pictures: Mapping[str, bytes]) -> Job:
        """Into the journal, then into the line."""
        try:
            new, added = await self._add(new, pictures)
        except (JournalError, OSError) as error:
            raise self._admission.excuse(error) from error
        finally:
            self._admission.leave(new.owner)
        if isinstance(added, str):  # somebody was faster with the same key
            return await self.get(added)
        self._line.counts["submitted"] += 1
        model, request = new.request.model or "", new.request
        self._line.add(Waiting(added, new.id, new.owner, new.priority, model, new.work, 0, 0, new.created))
        job = Job(
            id=new.id, owner=new.owner, state="queued", request=request, inputs=new.inputs, priority=new.priority,
            attempt=0, crashes=0, created=new.created,
        )  # fmt: skip
        return self._prospect.show(job)

    async def _add(self, new: NewJob, pictures: Mapping[str, bytes]) -> tuple[NewJob, int | str]:
        """The job with the hashes of its pictures, and what `rows.add` says."""
        if not pictures:
            return new, await self._storage.write(partial(rows.add, new=new))

        def write(hashes: Sequence[str], database: Database) -> tuple[NewJob, int | str]:
            with_inputs = replace(new, inputs=dict(zip(pictures, hashes, strict=True)))
            return with_inputs, rows.add(database, with_inputs)

        return await self._storage.write_with(tuple(pictures.values()), write)

    async def _cancel(self, job: str) -> None:
        if (row := self._line.remove(job)) is not None:
            change = Change(
                job=job, before="queued", attempt=row.attempt, after="cancelled", kind="cancelled",
                time=self._clock.wall(),
            )  # fmt: skip
            try:
                moved = await self._write(partial(rows.move, change=change))
            except Unready:
                self._line.add(row)
                raise
            self._line.counts["cancelled"] += 1
            self._hub.publish(moved.event)
        elif self._line.cancel(job):
            await self._write(partial(rows.ask_to_cancel, job=job))

    async def _read(self, function: Callable[[Database], T]) -> T:
        try:
            return await self._storage.read(function)
        except JournalError as error:
            raise self._admission.excuse(error) from error

    async def _file(self, read: Callable[[], bytes]) -> bytes:
        try:
            return await self._storage.in_thread(read)
        except OSError as error:
            raise Unready("the picture's file cannot be read now; try again") from error

    async def _write(self, function: Callable[[Database], T]) -> T:
        try:
            return await self._storage.write(function)
        except JournalError as error:
            raise self._admission.excuse(error) from error

    async def _keep_house(self) -> None:
        """Looks after the disk, tells the waiting where they stand, empties the trash."""
        watch, trouble = Watch(self._clock), self._storage.has_trouble
        while True:
            await asyncio.sleep(TICK if trouble.is_set() else 0)
            with suppress(TimeoutError):
                await asyncio.wait_for(trouble.wait(), TICK)
            with suppress(JournalError, OSError):
                await self._heal()
                self._prospect.tell_all()
                if watch.is_due():
                    await self._storage.purge(self._clock.wall())

    async def _keep_copies(self) -> None:
        """Copies the journal once a day, beginning now if today has no copy yet."""
        while True:
            try:
                self._copied["made"] += await self._storage.back_up(self._clock.wall())
            except (OSError, sqlite3.Error):  # the journal itself is well, or its writer says so
                self._copied["failed"] += 1
            await asyncio.sleep(LOOK)

    async def _heal(self) -> None:
        """After trouble: jobs that are in the journal, though nobody was told, come into the line."""
        if self._storage.is_well:
            return
        if await self._storage.heal():
            try:
                waiting = await self._storage.read(rows.waiting)
            except JournalError as error:
                return self._storage.note(error)
            for row in waiting:
                self._line.add(row)
            self._line.wake()


def _digest(request: ImageRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()
