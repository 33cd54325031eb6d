"""Who is next: priorities that rise with waiting, users in turn, warm models first within a bound.  Pure; the clock is
an argument.

    level of a job = priority + minutes waited       the highest level goes first
    within a level                                   the user whose last turn is longest ago
    within a user                                    the older job

Nobody starves: a job gains a level a minute, and it may be passed over for the sake of a warm model or of a running
batch at most `LOOK_AHEAD` times; then nothing starts before it.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

LOOK_AHEAD = 32
"""Jobs behind the next that may be taken instead, and how often one may be passed over."""
AGEING = 60.0
"""Seconds that lift a waiting job by one level."""

MAX_USERS = 1000
"""Whose last turns are remembered."""


@dataclass(frozen=True)
class Entry:
    """A waiting job, as far as turns go."""

    number: int
    """In the order of submission."""
    job: str
    owner: str
    priority: int
    model: str
    arrived: float
    """On the clock that `now` is of."""


class Schedule:
    """All waiting jobs.  A choice costs what there are users and what it looks at, not what waits."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], deque[Entry]] = {}
        self._entries: dict[str, Entry] = {}
        self._counts = Counter[str]()
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._passed: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job: str) -> bool:
        return job in self._entries

    def waiting(self, owner: str) -> int:
        """How many jobs of one user wait."""
        return self._counts[owner]

    def add(self, entry: Entry) -> None:
        """A new job, or one that is back; it stands where its number says."""
        assert entry.job not in self._entries, "a job waits once"
        self._entries[entry.job] = entry
        self._counts[entry.owner] += 1
        line = self._lines.setdefault((entry.owner, entry.priority), deque())
        place = len(line)
        while place and line[place - 1].number > entry.number:
            place -= 1
        line.insert(place, entry)

    def remove(self, job: str) -> Entry | None:
        """The job no longer waits; `None` if it did not."""
        entry = self._entries.pop(job, None)
        if entry is not None:
            line = self._lines[entry.owner, entry.priority]
            line.remove(entry)
            if not line:
                del self._lines[entry.owner, entry.priority]
            self._passed.pop(job, None)
            self._counts[entry.owner] -= 1
            if not self._counts[entry.owner]:
                del self._counts[entry.owner]
        return entry

    def order(self, now: float) -> Iterator[Entry]:
        """All waiting jobs as they would go if all fitted, from now on and at today's levels."""
        turns, turn = dict(self._turns), self._turn
        lines = {key: iter(line) for key, line in self._lines.items()}
        heads = [_rank(next(line), turns, now) for line in lines.values()]
        heapify(heads)
        while heads:
            _, last_turn, _, entry = heappop(heads)
            if last_turn != turns.get(entry.owner, 0):  # the user had a turn meanwhile
                heappush(heads, _rank(entry, turns, now))
                continue
            yield entry
            turn += 1
            turns[entry.owner] = turn
            following = next(lines[entry.owner, entry.priority], None)
            if following is not None:
                heappush(heads, _rank(following, turns, now))

    def window(self, now: float) -> list[Entry]:
        """What `choose` looks at."""
        return list(islice(self.order(now), LOOK_AHEAD + 1))

    def choose(
        self, now: float, fits: Callable[[Entry], bool], prefers: Callable[[Entry], bool] = lambda entry: True
    ) -> Entry | None:
        """The next job, which is taken out; `None` if nothing may start now.

        Args:
            fits: whether it may start beside what runs.
            prefers: whether it costs less than others now, because its model is loaded.
        """
        window = self._patient(self.window(now))
        fitting = [entry for entry in window if fits(entry)]
        chosen = next((entry for entry in fitting if prefers(entry)), fitting[0] if fitting else None)
        if chosen is None:
            return None
        for passed in window[: window.index(chosen)]:
            self._passed[passed.job] = self._passed.get(passed.job, 0) + 1
        self.remove(chosen.job)
        self._turn += 1
        self._turns[chosen.owner] = self._turn
        self._forget_users()
        return chosen

    def _patient(self, window: list[Entry]) -> list[Entry]:
        """The window up to the first job that may not be passed over any more."""
        for place, entry in enumerate(window):
            if self._passed.get(entry.job, 0) >= LOOK_AHEAD:
                return window[: place + 1]
        return window

    def _forget_users(self) -> None:
        """Of very many users, those whose turn is longest ago and who wait for nothing."""
        if len(self._turns) > 2 * MAX_USERS:
            newest = sorted(self._turns, key=lambda owner: self._turns[owner])[-MAX_USERS:]
            self._turns = {owner: self._turns[owner] for owner in {*newest, *self._counts} if owner in self._turns}


def _rank(entry: Entry, turns: Mapping[str, int], now: float) -> tuple[float, int, int, Entry]:
    level = entry.priority + max(now - entry.arrived, 0) // AGEING
    return -level, turns.get(entry.owner, 0), entry.number, entry
