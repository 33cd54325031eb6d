"""How long work takes on this machine, learnt as it is done: how large a batch pays, and when to give the worker up.

Rows are what one call of the U-Net stacks: pictures, times two under guidance.  Row counts are kept by level, the next
power of two.  A batch may grow to the next level while the last growth made every row cheaper.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from threading import Lock

from marmo.request import ImageRequest
from marmo.serve.messages import Kind, Operation

SAMPLES = 32
ENOUGH = 3
"""Steps at a level before it is judged: the first may only warm up."""
GAIN = 1.05
"""A level must paint this much faster than the one before, or waiting for one another is not worth it."""
MOST = 64
"""Rows in a batch, whatever they gain."""
UNLIKE = frozenset[Kind]({"opening", "encoding"})
RETRY = 512
"""Steps after which a level that did not gain is tried again: the machine may have been busy."""


def batch_key(request: ImageRequest) -> str:
    """The same for resolved requests whose questions one call of the network can answer."""
    hires = request.hires
    models = f"{request.model} {request.refiner.model} {request.vae} {hires.model} {request.upscale.model}"
    sizes = f"{request.width}x{request.height} {hires.scale} {hires.width}x{hires.height}"
    return f"{models} {request.prediction} {request.zero_snr} {sizes}"


def num_rows(request: ImageRequest) -> int:
    """How many rows of the network a step of a resolved request needs; a prompt with AND may need more."""
    is_plain = request.guidance_scale == 1 and not (request.sampler or "").endswith("cfg_pp")
    return request.num_images * (1 if is_plain else 2)


@dataclass(frozen=True)
class Patience:
    """When an operation has taken too long."""

    factor: float = 10.0
    """Times the median of its like, but"""
    floor: float = 30.0
    """at least this, in seconds."""
    first: float = 1800.0
    """For what was never measured, and for what has no like: one task opens a model that is there, the next reads it
    from a slow disk; one has a text to encode, the next a large picture."""


USUAL = Patience()


class Pace:
    """What was measured; may be asked from any thread."""

    def __init__(self, patience: Patience = USUAL) -> None:
        self._patience = patience
        self._costs = defaultdict[tuple[str, str], dict[int, deque[float]]](dict)  # seconds per row, by level
        self._tight: dict[str, int] = {}
        self._settled = defaultdict[str, int](int)
        self._lock = Lock()

    def add(self, operation: Operation, seconds: float) -> None:
        """An operation has ended."""
        with self._lock:
            levels = self._costs[operation.kind, operation.batch]
            level = levels.setdefault(_level(operation.rows), deque(maxlen=SAMPLES))
            level.append(seconds / operation.rows)
            if operation.kind == "step":
                self._settle(operation.batch)

    def tight(self, batch: str, rows: int) -> None:
        """So many rows did not fit into memory; they are not tried again."""
        with self._lock:
            self._tight[batch] = min(rows, self._tight.get(batch, rows))

    def seconds(self, operation: Operation) -> float | None:
        """What it takes as a rule, judged by the nearest level; nothing where none was measured."""
        with self._lock:
            levels = self._costs.get((operation.kind, operation.batch))
            if not levels:
                return None
            nearest = min(levels, key=lambda level: abs(level - _level(operation.rows)))
            return median(levels[nearest]) * operation.rows

    def patience(self, operation: Operation) -> float:
        """How long to wait for it, in seconds."""
        usual = None if operation.kind in UNLIKE else self.seconds(operation)
        return self._patience.first if usual is None else max(self._patience.floor, self._patience.factor * usual)

    def cap(self, batch: str) -> int:
        """The most rows that may share a batch now; 0 until a step was measured."""
        with self._lock:
            return self._cap(batch)

    def fits(self, request: ImageRequest, running: Sequence[ImageRequest]) -> bool:
        """Whether a request may join those that run.  One whose size is open joins nobody: only the worker knows it."""
        batch = batch_key(request)
        if running and (request.width is None or request.height is None):
            return False
        if any(batch_key(other) != batch for other in running):
            return False
        return not running or num_rows(request) + sum(map(num_rows, running)) <= self.cap(batch)

    def _cap(self, batch: str) -> int:
        costs = self._measured(batch)
        if not costs:
            return 0
        best, *larger = sorted(costs)
        for level in larger:
            if costs[best] < GAIN * costs[level]:
                return min(best, self._most(batch))
            best = level
        return min(2 * best, self._most(batch))

    def _most(self, batch: str) -> int:
        return min(MOST, self._tight.get(batch, MOST + 1) - 1)

    def _measured(self, batch: str) -> dict[int, float]:
        """Level -> median seconds per row."""
        levels = self._costs.get(("step", batch), {})
        return {level: median(costs) for level, costs in levels.items() if len(costs) >= ENOUGH}

    def _settle(self, batch: str) -> None:
        """Forget, now and then, the levels above the cap, so that they are tried again."""
        self._settled[batch] += 1
        if self._settled[batch] < RETRY:
            return
        self._settled[batch] = 0
        levels, cap = self._costs["step", batch], self._cap(batch)
        for level in [level for level in levels if level > cap]:
            del levels[level]


def _level(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()
