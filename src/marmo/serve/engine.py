"""What paints on this machine: a worker process, and a supervisor in the server that outlives it.

    engine = LocalEngine(Setup(models=(("sd15", "models/v1-5.safetensors"),)))
    engine.start()
    engine.reports.get()        # Ready
    engine.submit(task)         # Staged, Stepped, ..., Finished

One thread owns all that changes; every method only leaves it a note.  A worker that dies is replaced, at once the first
time and ever more slowly while it keeps dying; one that makes no progress is killed (see `pace`).  No torch is imported
here.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Thread

from marmo.request import ImageRequest
from marmo.serve.contract import (
    Died,
    Failed,
    Finished,
    Offered,
    Previewed,
    Ready,
    Report,
    Staged,
    Stepped,
    Stopped,
    Task,
)
from marmo.serve.messages import Began, Cancel, Close, Ended, Idle, Setup, Tight
from marmo.serve.pace import USUAL, Pace, Patience
from marmo.serve.process import Process

MAX_DELAY = 30.0
"""Seconds between two starts of a worker that keeps dying."""
HEALTHY = 60.0
"""Seconds after which a worker's death is a first one again."""
GRACE = 5.0
"""Seconds beyond its own for a worker to hand back what it has."""
MANY_REPORTS = 1000
"""More unread ones than this, and previews are dropped."""


class LocalEngine:
    """The engine of one machine; see `contract.Engine`."""

    def __init__(self, setup: Setup, patience: Patience = USUAL) -> None:
        self.reports = SimpleQueue[Report]()
        self._setup, self._patience, self._pace = setup, patience, Pace(patience)
        self._notes = SimpleQueue[Callable[[], None]]()
        self._thread = Thread(target=self._supervise, name="engine", daemon=True)
        self._ended = Event()
        self._is_up = False
        self._worker: Process | None = None
        self._waiting: dict[str, Task] = {}
        """Tasks that no worker has seen yet, by job, and"""
        self._in_hand: dict[str, int] = {}
        """the attempts that the worker has."""
        self._start_at: float | None = 0.0
        self._started = 0.0
        self._delay = 0.0
        self._give_up_at: float | None = None
        """When the worker counts as hung."""
        self._verdict: str | None = None
        """Why it is being killed."""
        self._close_at: float | None = None

    # What anybody may call

    @property
    def pid(self) -> int | None:
        """The worker's, while there is one."""
        worker = self._worker
        return None if worker is None else worker.pid

    def start(self) -> None:
        """Come up; `Ready` follows."""
        self._thread.start()

    def room(self, request: ImageRequest, running: Sequence[ImageRequest]) -> bool:
        """Whether the request may join those that run: it fits their batch, or nothing runs."""
        return self._is_up and self._pace.fits(request, running)

    def submit(self, task: Task) -> None:
        """Paint; `Finished`, `Failed`, `Stopped` or `Died` ends every task exactly once."""
        self._notes.put(partial(self._submit, task))

    def cancel(self, job: str) -> None:
        """Stop a job at its next step; nothing happens if it is not running."""
        self._notes.put(partial(self._cancel, job))

    def close(self, seconds: float) -> None:
        """Hand back what cannot finish within this time, then end; called again, the shorter time counts."""
        self._notes.put(partial(self._close, seconds))

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the engine has ended, after so many seconds at most."""
        return self._ended.wait(seconds)

    # All else happens in the engine's own thread

    def _supervise(self) -> None:
        while not self._ended.is_set():
            try:
                note = self._notes.get(timeout=self._patience_left())
            except Empty:
                pass
            else:
                note()
            self._look_at_the_clock()

    def _patience_left(self) -> float | None:
        close_at = self._close_at if self._verdict is None else None  # being killed, it ends when it does
        times = [moment for moment in (self._start_at, self._give_up_at, close_at) if moment is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if self._start_at is not None and now >= self._start_at:
            self._spawn()
        if self._give_up_at is not None and now >= self._give_up_at:
            self._kill("the worker made no progress")
        if self._close_at is not None and now >= self._close_at and self._verdict is None:
            self._kill("the worker did not end in time")

    def _spawn(self) -> None:
        self._start_at, self._started, self._verdict = None, time.monotonic(), None
        self._give_up_at = self._started + self._patience.first
        try:
            self._worker = Process(
                self._setup,
                heard=lambda message: self._notes.put(partial(self._hear, message)),
                gone=lambda reason: self._notes.put(partial(self._lose, reason)),
            )
        except OSError as error:
            self._lose(f"no worker could be started: {error.strerror}")

    def _kill(self, verdict: str) -> None:
        self._give_up_at, self._verdict = None, verdict
        if self._worker is not None:
            self._worker.kill()

    def _submit(self, task: Task) -> None:
        if self._close_at is not None:
            self.reports.put(Stopped(task.job, task.attempt, cancelled=False))
        elif self._is_up:
            self._hand_over(task)
        else:
            self._waiting[task.job] = task

    def _hand_over(self, task: Task) -> None:
        assert self._worker is not None, "it is up"
        self._in_hand[task.job] = task.attempt
        self._worker.send(task)
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._patience.floor

    def _cancel(self, job: str) -> None:
        task = self._waiting.pop(job, None)
        if task is not None:
            self.reports.put(Stopped(job, task.attempt, cancelled=True))
        elif job in self._in_hand and self._worker is not None:
            self._worker.send(Cancel(job))

    def _close(self, seconds: float) -> None:
        close_at = time.monotonic() + seconds + GRACE
        self._close_at = close_at if self._close_at is None else min(close_at, self._close_at)
        self._start_at = None
        for task in self._waiting.values():
            self.reports.put(Stopped(task.job, task.attempt, cancelled=False))
        self._waiting.clear()
        if self._worker is None:
            self._ended.set()
        elif self._is_up:
            self._worker.send(Close(seconds))
        else:
            self._kill("the server closes")

    def _hear(self, message: object) -> None:
        match message:
            case Ready():
                self._is_up, self._give_up_at = True, None
                self.reports.put(message)
                for task in self._waiting.values():
                    self._hand_over(task)
                self._waiting.clear()
            case Offered():
                self.reports.put(message)
            case Began():
                self._give_up_at = time.monotonic() + self._pace.patience(message.operation)
            case Ended():
                self._pace.add(message.operation, message.seconds)
                self._give_up_at = time.monotonic() + self._patience.floor
            case Tight():
                self._pace.tight(message.batch, message.rows)
            case Idle():
                self._give_up_at = None
            case Staged() | Stepped() | Previewed() | Finished() | Failed() | Stopped():
                self._pass_on(message)
            case _:
                raise AssertionError(f"{type(message)} is no message of a worker")

    def _pass_on(self, report: Staged | Stepped | Previewed | Finished | Failed | Stopped) -> None:
        if self._in_hand.get(report.job) != report.attempt:
            return  # of an attempt that has ended
        if isinstance(report, Previewed) and self.reports.qsize() > MANY_REPORTS:
            return
        if isinstance(report, Finished | Failed | Stopped):
            del self._in_hand[report.job]
        self.reports.put(report)

    def _lose(self, reason: str) -> None:
        """The worker is gone; another one comes, unless the engine closes."""
        self._worker, self._is_up, self._give_up_at = None, False, None
        attempts = tuple(self._in_hand.items())
        self._in_hand.clear()
        if self._close_at is None:
            self.reports.put(Died(attempts, self._verdict or reason))
            self._start_at = time.monotonic() + self._next_delay()
            return
        for job, attempt in attempts:
            self.reports.put(Stopped(job, attempt, cancelled=False))
        self._ended.set()

    def _next_delay(self) -> float:
        """Nothing after a worker that lived well, then longer with every one that did not."""
        if time.monotonic() - self._started > HEALTHY:
            self._delay = 0.0
        delay, self._delay = self._delay, min(MAX_DELAY, max(0.5, 2 * self._delay))
        return delay
