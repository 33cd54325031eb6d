"""What time it is, of both kinds.  Everything that waits or ages goes by the first; only people read the second."""

import time
from collections.abc import Callable
from dataclasses import dataclass

HOUR = 3600.0
MAX_DRIFT = 60.0
"""Seconds that the two clocks may disagree before nothing is thrown away any more."""


@dataclass(frozen=True)
class Clock:
    """Tests put their own functions here."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds; never jumps, means nothing after a restart."""
    wall: Callable[[], float] = time.time
    """Unix time; may jump either way."""


SYSTEM = Clock()


class Watch:
    """Says once an hour that something is due, but never after the wall's clock has jumped: the trash goes by it."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._monotonic, self._wall = clock, clock.monotonic(), clock.wall()
        self._next = self._monotonic

    def is_due(self) -> bool:
        now = self._clock.monotonic()
        if now < self._next:
            return False
        self._next = now + HOUR
        return abs((self._clock.wall() - self._wall) - (now - self._monotonic)) < MAX_DRIFT
