"""Where a job stands and how long it still takes, as told to those who wait."""

from dataclasses import dataclass, replace
from itertools import accumulate

from marmo.serve.clock import Clock
from marmo.serve.dispatching import Dispatcher
from marmo.serve.job import Job, JobEvent

FRESH = 1.0
"""Seconds that the order of the queue is good for, or longer if it takes long to find out."""
SHARE = 0.05
"""Of the time, at most, that goes into finding it out."""
UNKNOWN = 10.0
"""Seconds to a free place while nothing has been measured."""
MIN_RETRY, MAX_RETRY = 1.0, 120.0
"""Seconds; the `openai` client gives up when it is told more."""


@dataclass(frozen=True)
class _Place:
    position: int
    seconds_left: float | None


class Prospect:
    """What the queue can say about the time to come."""

    def __init__(self, line: Dispatcher, clock: Clock) -> None:
        self._line, self._clock = line, clock
        self._places: dict[str, _Place] = {}
        self._end = 0.0
        self._until = float("-inf")

    def show(self, job: Job) -> Job:
        """The job with its place in the queue or its progress, as of now."""
        if job.state == "queued" and job.id in self._line.schedule:
            place = self._place(job.id)
            return replace(job, position=place.position, seconds_left=place.seconds_left)
        hand = self._line.in_hand.get(job.id)
        if job.state != "running" or hand is None:
            return job
        return replace(job, stage=hand.stage, step=hand.step, steps=hand.steps, seconds_left=hand.seconds_left)

    def tell(self, job: str) -> None:
        """To those who listen, where a waiting job stands."""
        if job in self._line.schedule:
            place = self._place(job)
            event = JobEvent(
                seq=0, job=job, kind="position", time=self._clock.wall(), position=place.position,
                seconds_left=place.seconds_left,
            )  # fmt: skip
            self._line.hub.pass_on(event)

    def introduce(self, job: str) -> None:
        """The same, unless it was told already: a thousand listeners to one job shall not tell one another."""
        if not any(event.kind == "position" for event in self._line.hub.newest(job)):
            self.tell(job)

    def tell_all(self) -> None:
        """To all that listen to a waiting job, if its place has changed."""
        before = self._places
        for job in self._line.hub.watched():
            if job in self._line.schedule and self._place(job) != before.get(job):
                self.tell(job)

    def next_end(self) -> float:
        """Seconds until a place in the queue is free, 1 to 120."""
        known = [left for hand in self._line.in_hand.values() if (left := hand.seconds_left) is not None]
        return min(max(min(known, default=UNKNOWN), MIN_RETRY), MAX_RETRY)

    def _place(self, job: str) -> _Place:
        """A job that has come since the last look is behind all others."""
        self._look()
        if job in self._places:
            return self._places[job]
        row = self._line.rows[job]
        own = self._line.forecast.seconds(row.model, row.work)
        return _Place(len(self._line.schedule) - 1, None if own is None else self._end + own)

    def _look(self) -> None:
        began = self._clock.monotonic()
        if began < self._until:
            return
        line = self._line
        entries = list(line.schedule.order(began))
        running = max((hand.seconds_left or 0.0 for hand in line.in_hand.values()), default=0.0)
        times = [line.forecast.seconds(entry.model, line.rows[entry.job].work) for entry in entries]
        ends = list(accumulate((seconds or 0.0 for seconds in times), initial=running))
        self._places = {
            entry.job: _Place(place, None if seconds is None else end)
            for place, (entry, seconds, end) in enumerate(zip(entries, times, ends[1:], strict=True))
        }
        self._end = ends[-1]
        ended = self._clock.monotonic()
        self._until = ended + max(FRESH, (ended - began) / SHARE)
