"""A Brownian path that is a function of its seed alone, whatever is asked of it and in which order.

The path from `low` to `high` is halved again and again; the middle of every piece is drawn from a seed that belongs to
the piece (Levy's construction).  The pieces, their seeds and the order of the sums are those of torchsde's
`BrownianTree` with its tolerance of 1e-6, so that A1111's and ComfyUI's SDE pictures can be made again.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[int], Tensor]
"""(seed of 32 bits) -> standard normal numbers."""

DIGITS = 6
"""Places in the path are rounded to so many decimals."""

POOL = 24
"""Words of entropy that a seed sequence mixes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """From `start` to `end`, with the path's increment over it; `number` counts the pieces of a depth from the left."""

    start: float
    end: float
    number: int
    depth: int
    increment: Tensor


class BrownianTree:
    """One path.

    Args:
        draw: the numbers that belong to a seed.
        seed: of the path; not negative.
        low, high: its ends.
    """

    def __init__(self, draw: Draw, seed: int, low: float, high: float) -> None:
        self.draw, self.seed = draw, seed
        (first,) = np.random.SeedSequence(seed, pool_size=POOL).generate_state(1)
        whole = draw(int(first)) * math.sqrt(high - low)
        self.root = _Piece(round(low, DIGITS), round(high, DIGITS), 0, 0, whole)
        self.halves = lru_cache(maxsize=48)(self._halves)  # the next interval begins where this one ends

    def __call__(self, start: float, end: float) -> Tensor:
        """The path's increment from `start` to `end`, start < end; what lies outside the path is cut off."""
        start, end = (round(min(max(place, self.root.start), self.root.end), DIGITS) for place in (start, end))
        if start == end:
            return torch.zeros_like(self.root.increment)
        first, *rest = self._pieces(self.root, start, end)
        return sum((piece.increment for piece in rest), start=first.increment)

    def _pieces(self, piece: _Piece, start: float, end: float) -> Iterator[_Piece]:
        """The largest pieces that make up the interval, from left to right."""
        if start == piece.start and end == piece.end:
            yield piece
            return
        left, right = self.halves(piece)
        if start < left.end:
            yield from self._pieces(left, start, min(end, left.end))
        if end > right.start:
            yield from self._pieces(right, max(start, right.start), end)

    def _halves(self, piece: _Piece) -> tuple[_Piece, _Piece]:
        middle = round((piece.end + piece.start) * 0.5, DIGITS)
        before, after = middle - piece.start, piece.end - middle
        share = 1 / (piece.end - piece.start)
        place = np.random.SeedSequence(self.seed, spawn_key=(piece.number, piece.depth), pool_size=POOL)
        (seed,) = place.generate_state(1)
        bridge = math.sqrt(before * after * share) * self.draw(int(seed))
        left = before * piece.increment * share + bridge
        depth = piece.depth + 1
        return (
            _Piece(piece.start, middle, 2 * piece.number, depth, left),
            _Piece(middle, piece.end, 2 * piece.number + 1, depth, piece.increment - left),
        )
