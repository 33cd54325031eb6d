"""Events on their way to whoever listens: a slow reader costs a bounded amount of memory and holds nobody up.

Lasting events come from the journal with their numbers; what passes in between (steps, previews, positions) is numbered
here, and only the newest of each kind is kept for those who come later.
"""

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from marmo.serve.job import ENDED, EventKind, JobEvent

MAX_EVENTS = 64
"""That wait for one reader, lasting ones aside: of these a job has few."""
DROPPED_FIRST: tuple[EventKind, ...] = ("preview", "position", "step", "stage")


class Listener:
    """One reader's events.  Of previews and positions the newest alone waits; beyond the bound the oldest step goes."""

    def __init__(self) -> None:
        self._events: deque[JobEvent] = deque()
        self._some = asyncio.Event()
        self._is_closed = False

    def put(self, event: JobEvent) -> None:
        """Never waits."""
        if event.kind in ("preview", "position"):
            self._drop(event.kind)
        self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            any(self._drop(kind) for kind in DROPPED_FIRST)
        self._some.set()

    async def get(self) -> JobEvent | None:
        """The oldest that waits; `None` when nothing will come any more."""
        while not self._events and not self._is_closed:
            self._some.clear()
            await self._some.wait()
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        """Nothing will come any more."""
        self._is_closed = True
        self._some.set()

    def _drop(self, kind: EventKind) -> bool:
        """Forget the oldest of a kind; whether there was one."""
        oldest = next((event for event in self._events if event.kind == kind), None)
        if oldest is not None:
            self._events.remove(oldest)
        return oldest is not None


@dataclass
class _Channel:
    """One job's newest events and its readers."""

    last: int = 0
    has_ended: bool = False
    newest: dict[EventKind, JobEvent] = field(default_factory=dict[EventKind, JobEvent])
    listeners: set[Listener] = field(default_factory=set[Listener])


class Hub:
    """Jobs that run, and open ones that somebody listens to or has; lives in the event loop."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}

    @property
    def listeners(self) -> int:
        return sum(len(channel.listeners) for channel in self._channels.values())

    def watched(self) -> list[str]:
        """Jobs that somebody listens to."""
        return [job for job, channel in self._channels.items() if channel.listeners]

    def publish(self, event: JobEvent) -> None:
        """A lasting event, once it is in the journal."""
        channel = self._channels.setdefault(event.job, _Channel())
        channel.newest.clear()
        self.know(event.job, event.seq, event.kind in ENDED)
        for listener in channel.listeners:
            listener.put(event)

    def know(self, job: str, seq: int, has_ended: bool) -> None:
        """What the journal says about a job; one that has ended is forgotten with its last reader."""
        channel = self._channels.setdefault(job, _Channel())
        channel.last, channel.has_ended = max(channel.last, seq), channel.has_ended or has_ended
        self._forget_if_idle(job)

    def pass_on(self, event: JobEvent) -> None:
        """An event that passes; its `seq` is given here."""
        channel = self._channels.get(event.job)
        if channel is None or channel.has_ended:
            return
        channel.last += 1
        numbered = replace(event, seq=channel.last)
        channel.newest[event.kind] = numbered
        for listener in channel.listeners:
            listener.put(numbered)

    def newest(self, job: str) -> list[JobEvent]:
        """What last passed of each kind since the last lasting event, in order."""
        channel = self._channels.get(job)
        return sorted(channel.newest.values(), key=lambda event: event.seq) if channel else []

    @contextmanager
    def listening(self, job: str) -> Generator[Listener]:
        """A listener to one job, from now until the block ends."""
        listener = Listener()
        self._channels.setdefault(job, _Channel()).listeners.add(listener)
        try:
            yield listener
        finally:
            self._channels[job].listeners.discard(listener)
            self._forget_if_idle(job)

    def close(self) -> None:
        """Let everybody go."""
        for channel in self._channels.values():
            for listener in channel.listeners:
                listener.close()

    def _forget_if_idle(self, job: str) -> None:
        channel = self._channels[job]
        if not channel.listeners and (channel.has_ended or not channel.last):
            del self._channels[job]
