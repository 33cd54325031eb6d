"""From the queue to the engine and back: what starts next, what the engine's reports mean, and where each job ends.

Lives in the event loop.  A job is in hand from its start until its end is in the journal.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty
from typing import Literal

from marmo.request import ImageRequest
from marmo.serve import ending, rows
from marmo.serve.clock import Clock
from marmo.serve.contract import (
    Died,
    Engine,
    Failed,
    Finished,
    Model,
    Offered,
    Previewed,
    Ready,
    Report,
    Staged,
    Stepped,
    Stopped,
    Task,
)
from marmo.serve.forecasting import Forecast
from marmo.serve.hub import Hub
from marmo.serve.inputs import attach
from marmo.serve.job import JobEvent, Unknown
from marmo.serve.journal import JournalError
from marmo.serve.rows import Change, Moved, Stale, Waiting
from marmo.serve.scheduling import Entry, Schedule
from marmo.serve.storage import Storage

MAX_UNWRITTEN = 16
"""Painted jobs that wait for the disk; beyond, nothing starts."""
POLL = 0.25
"""Seconds after which the thread that reads reports looks whether it shall end."""
MAX_WAITED = 3600.0
"""Seconds that a job may seem to have waited before a restart, whatever the clock on the wall says."""
GRACE = 8.0
"""Seconds for a closing engine to answer beyond the time that it was given."""


@dataclass
class InHand:
    """A job from its start until its end is written."""

    row: Waiting
    attempt: int
    request: ImageRequest
    """Bare."""
    phase: Literal["starting", "painting", "ending"] = "starting"
    is_cancelled: bool = False
    stage: str | None = None
    step: int = 0
    steps: int = 0
    seconds: float | None = None
    """Of its last step."""

    @property
    def seconds_left(self) -> float | None:
        return None if self.seconds is None else self.seconds * (self.steps - self.step)


@dataclass(frozen=True)
class Style:
    """What every task is told."""

    invariant: bool = False
    preview_every: int = 1


PLAIN = Style()


class Dispatcher:
    """Keeps the engine busy with what waits."""

    def __init__(self, engine: Engine, storage: Storage, hub: Hub, clock: Clock, style: Style) -> None:
        self.engine, self.storage, self.hub, self.clock, self.style = engine, storage, hub, clock, style
        self.schedule, self.forecast = Schedule(), Forecast()
        self.models: tuple[Model, ...] = ()
        self.knows_all = False
        """Whether the engine has told all of its models."""
        self.rows: dict[str, Waiting] = {}
        self.in_hand: dict[str, InHand] = {}
        self.counts: Counter[str] = Counter()
        self.is_draining = False
        self._is_ready = False
        self._warm: str | None = None
        self._requests: dict[str, ImageRequest] = {}
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the engine takes tasks."""
        return self.trouble is None

    @property
    def trouble(self) -> str | None:
        """Why the engine takes no tasks."""
        if not self._is_ready:
            return "no worker is ready"
        return None if self.models else "none of the models can be used; the log says why"

    def start(self) -> None:
        """Bring the engine up and begin to hand out."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._pump, args=(loop,), name="reports", daemon=True).start()
        self.engine.start()
        self._spawn(self._run())

    async def drain(self, seconds: float) -> None:
        """Start nothing more; what the engine does not end within this time is parked."""
        self.is_draining = True
        self.engine.close(seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + GRACE):
                while self.in_hand:
                    self._idle.clear()
                    await self._idle.wait()
        for job in [hand for hand in self.in_hand.values() if hand.phase == "painting"]:
            await self._end(job, partial(self._stop, job, Stopped(job.row.id, job.attempt, False)))

    async def close(self) -> None:
        """After `drain`: no task of ours is left."""
        self._closed.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, row: Waiting) -> None:
        """A job that waits, new or again; nothing happens if it is known."""
        if row.id in self.schedule or row.id in self.in_hand:
            return
        waited = min(max(self.clock.wall() - row.created, 0.0), MAX_WAITED)
        arrived = self.clock.monotonic() - waited
        self.rows[row.id] = row
        self.schedule.add(Entry(row.number, row.id, row.owner, row.priority, row.model, arrived))
        self._wake.set()

    def remove(self, job: str) -> Waiting | None:
        """It no longer waits."""
        return self.rows.pop(job) if self.schedule.remove(job) else None

    def cancel(self, job: str) -> bool:
        """Stop it if it is in hand; whether it was."""
        hand = self.in_hand.get(job)
        if hand is not None:
            hand.is_cancelled = True
            self.engine.cancel(job)
        return hand is not None

    def wake(self) -> None:
        """Something may start that could not before."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (entry := await self._next()) is not None:
                await self._start(entry)

    async def _next(self) -> Entry | None:
        """What may start now, taken out of the schedule."""
        while self._may_start():
            window = self.schedule.window(self.clock.monotonic())
            missing = [entry.job for entry in window if entry.job not in self._requests]
            if not missing:
                self._requests = {entry.job: self._requests[entry.job] for entry in window}
                return self.schedule.choose(self.clock.monotonic(), self._fits, self._prefers)
            await self._load(missing)
        return None

    def _may_start(self) -> bool:
        unwritten = sum(hand.phase == "ending" for hand in self.in_hand.values())
        is_free = self.is_ready and not self.is_draining and self.storage.trouble is None
        return is_free and unwritten < MAX_UNWRITTEN and len(self.schedule) > 0

    async def _load(self, jobs: Sequence[str]) -> None:
        try:
            for job, (request, _) in zip(jobs, await self.storage.read(partial(rows.requests, ids=jobs)), strict=True):
                self._requests[job] = request
        except JournalError as error:
            self.storage.note(error)

    def _fits(self, entry: Entry) -> bool:
        """Whether the engine has its models and room; a job that was there when a worker died runs alone."""
        if not self.knows_all and not named_models(self._requests[entry.job]) <= {model.id for model in self.models}:
            return False  # they may yet be found
        beside = [hand for hand in self.in_hand.values() if hand.phase != "ending"]
        if any(hand.row.crashes for hand in beside) or (beside and self.rows[entry.job].crashes):
            return False
        return self.engine.room(self._requests[entry.job], [hand.request for hand in beside])

    def _prefers(self, entry: Entry) -> bool:
        return entry.model == self._warm

    async def _start(self, entry: Entry) -> None:
        row, request = self.rows.pop(entry.job), self._requests.pop(entry.job)
        hand = self.in_hand[row.id] = InHand(row, row.attempt + 1, request)
        change = Change(
            job=row.id, before="queued", attempt=row.attempt, after="running", kind="started", time=self.clock.wall()
        )
        try:
            moved = await self.storage.write(partial(rows.move, change=change))
        except (Stale, JournalError) as error:
            self._forget(hand)
            if isinstance(error, JournalError):
                self.storage.note(error)
                self.add(row)
            return
        self.hub.publish(moved.event)
        hand.phase = "painting"
        await self._submit(hand)

    async def _submit(self, hand: InHand) -> None:
        """To the engine, unless it is clear already how it ends."""
        id, attempt = hand.row.id, hand.attempt
        try:
            whole = await self._whole(hand)
        except Unknown:
            return self._receive(Failed(id, attempt, "internal", "a picture of the request is gone or damaged"))
        except (OSError, JournalError) as error:
            self.storage.note(error)
            return self._receive(Stopped(id, attempt, False))
        if hand.is_cancelled or self.is_draining:
            return self._receive(Stopped(id, attempt, hand.is_cancelled))
        if hand.request.model is None:
            return self._receive(Failed(id, attempt, "request", "another version of Marmo wrote it; submit it again"))
        if hand.row.model not in {model.id for model in self.models}:
            return self._receive(Failed(id, attempt, "model", f"the model {hand.row.model!r} is no longer here"))
        self._warm = hand.row.model
        self.engine.submit(
            Task(
                job=id, attempt=attempt, request=whole, invariant=self.style.invariant,
                preview_every=self.style.preview_every,
            )
        )  # fmt: skip

    async def _whole(self, hand: InHand) -> ImageRequest:
        """The request with its pictures."""
        _, hashes = (await self.storage.read(partial(rows.requests, ids=[hand.row.id])))[0]
        if not hashes:
            return hand.request
        read = self.storage.results.read
        return attach(
            hand.request,
            await self.storage.in_thread(lambda: {place: read(sha256) for place, sha256 in hashes.items()}),
        )

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carries reports into the event loop, in a thread of its own."""
        while not self._closed.is_set():
            with suppress(Empty, RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(self._receive, self.engine.reports.get(timeout=POLL))

    def _receive(self, report: Report) -> None:
        match report:
            case Ready(models, is_all):
                self.models, self.knows_all, self._is_ready = models, is_all, True
                self._wake.set()
            case Offered(models):
                self.models, self.knows_all = models, True
                self._wake.set()
            case Died(attempts, reason):
                self._is_ready = False
                self.counts["worker_deaths"] += 1
                for hand in filter(None, [self._hand(*attempt) for attempt in attempts]):
                    self._end_soon(hand, partial(self._crash, hand, reason))
            case Staged() | Stepped() | Previewed():
                hand = self._hand(report.job, report.attempt)
                if hand is not None:
                    self._progress(hand, report)
            case Finished() | Failed() | Stopped():
                hand = self._hand(report.job, report.attempt)
                if hand is not None:
                    self._end_soon(hand, self._ending(hand, report))

    def _hand(self, job: str, attempt: int) -> InHand | None:
        """The job that a report is about, unless the report is stale."""
        hand = self.in_hand.get(job)
        return hand if hand is not None and hand.attempt == attempt and hand.phase == "painting" else None

    def _progress(self, hand: InHand, report: Staged | Stepped | Previewed) -> None:
        event = JobEvent(seq=0, job=report.job, kind="stage", time=self.clock.wall(), attempt=report.attempt)
        match report:
            case Staged(stage=stage):
                hand.stage = stage
                self.hub.pass_on(replace(event, stage=stage))
            case Stepped():
                self._count_step(hand, report)
                left = hand.seconds_left
                self.hub.pass_on(replace(event, kind="step", index=report.index, total=report.total, seconds_left=left))
            case Previewed():
                self.hub.pass_on(replace(event, kind="preview", index=report.index, pictures=report.pictures))

    def _count_step(self, hand: InHand, report: Stepped) -> None:
        hand.stage, hand.step, hand.steps, hand.seconds = "painting", report.index + 1, report.total, report.seconds
        beside = sum(other.phase == "painting" for other in self.in_hand.values())
        work = hand.row.work / max(report.total, 1) * beside
        self.forecast.learn(hand.row.model, work, report.seconds)
        self.counts["steps"] += 1

    def _ending(self, hand: InHand, report: Finished | Failed | Stopped) -> Callable[[], Awaitable[Moved]]:
        now = self.clock.wall()
        match report:
            case Finished():
                return partial(ending.finish, self.storage, report, hand.request, hand.row.owner, now)
            case Failed():
                return partial(ending.fail, self.storage, report, now)
            case Stopped():
                return partial(self._stop, hand, report)

    async def _stop(self, hand: InHand, report: Stopped) -> Moved:
        return await ending.stop(self.storage, report, hand.is_cancelled, self.clock.wall())

    async def _crash(self, hand: InHand, reason: str) -> Moved:
        if hand.is_cancelled:
            return await self._stop(hand, Stopped(hand.row.id, hand.attempt, True))
        row = hand.row
        return await ending.crash(self.storage, row.id, hand.attempt, row.crashes, reason, self.clock.wall())

    def _end_soon(self, hand: InHand, end: Callable[[], Awaitable[Moved]]) -> None:
        self._spawn(self._end(hand, end))

    async def _end(self, hand: InHand, end: Callable[[], Awaitable[Moved]]) -> None:
        """Write the end, tell it, and let the next one in."""
        hand.phase = "ending"
        self._wake.set()
        moved = await ending.until_written(self.storage, end)
        self._forget(hand)
        if moved is None:
            return
        event = moved.event
        self.counts[event.kind] += 1
        if event.kind == "parked":
            crashes = hand.row.crashes + (event.code == "crash")
            self.add(replace(hand.row, attempt=hand.attempt, crashes=crashes))
        if event.kind == "succeeded":
            event = replace(event, images=moved.images)
        self.hub.publish(event)

    def _forget(self, hand: InHand) -> None:
        del self.in_hand[hand.row.id]
        self._idle.set()
        self._wake.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """What went wrong in a task of ours is a defect, and is heard of."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "the queue has a defect", "exception": error})


def named_models(request: ImageRequest) -> set[str]:
    """The ids in a request of models that are offered; an autoencoder never is."""
    ids = (request.model, request.refiner.model, request.hires.model, request.upscale.model)
    return {id for id in ids if id is not None}
