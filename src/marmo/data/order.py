"""In which order a collection is seen: a pure function of the seed and the position, without memory or state.

Position 0, 1, 2, ... counts the images that a run sees.  Every pass over n images is another permutation of them, and
any place in it is found at once; so a run resumes anywhere, and ranks and threads may ask for what they like.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.uint64]

ROUNDS = 6
STRETCH = 4096


def permute(positions: Indices, count: int, key: int) -> Indices:
    """Where a permutation of 0 ... count - 1, one of 2**64, takes each position.

    A Feistel network over the next even power of two; what falls outside goes round again until it is inside (Black and
    Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    result = _feistel(positions.astype(np.uint64), half, key)
    while (outside := result >= count).any():
        result[outside] = _feistel(result[outside], half, key)
    return result


class Shuffle:
    """An endless sequence of the numbers below `count`; each pass has every number once."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError("there is nothing to put into an order: the collection is empty")
        self.count, self.seed = count, seed

    def __call__(self, position: int) -> int:
        """The number at a position."""
        turn, place = divmod(position, self.count)
        return int(_stretch(self.count, _mix(self.seed, turn), place // STRETCH)[place % STRETCH])


class BucketShuffle:
    """An endless sequence in which every batch is of one bucket and every number comes equally often.

    The bucket of a batch is that of a number drawn as `Shuffle` draws, so a bucket with a tenth of the images has a
    tenth of the batches; within a bucket every pass has every number once.

    Args:
        buckets: the bucket of each number.
    """

    def __init__(self, buckets: Sequence[int], batch_size: int, seed: int) -> None:
        self.buckets, self.batch_size, self.seed = np.asarray(buckets), batch_size, seed
        names, counts = np.unique(self.buckets, return_counts=True)
        self.counts = {int(name): int(number) for name, number in zip(names, counts, strict=True)}
        self.members = {name: np.flatnonzero(self.buckets == name) for name in self.counts}
        self._turn = lru_cache(maxsize=2)(self._draw)
        if not self.counts:
            raise ValueError("there is nothing to put into an order: the collection is empty")

    def __call__(self, position: int) -> int:
        """The number at a position; the positions of a batch begin at a multiple of the batch size."""
        batch, place = divmod(position, self.batch_size)
        bucket, before = self._bucket(batch)
        inside = Shuffle(self.counts[bucket], _mix(self.seed, bucket + 1))
        return int(self.members[bucket][inside(before * self.batch_size + place)])

    def _bucket(self, batch: int) -> tuple[int, int]:
        """The bucket of a batch, and how many batches before it had the same."""
        turn, place = divmod(batch, len(self.buckets))
        drawn, before = self._turn(turn)
        bucket = int(drawn[place])
        return bucket, turn * self.counts[bucket] + int(before[place])  # a turn has as many batches as images

    def _draw(self, turn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of every batch of a turn: its bucket, and how many before it in this turn had the same."""
        places = np.arange(len(self.buckets), dtype=np.uint64)
        drawn = self.buckets[permute(places, len(places), _mix(self.seed, turn))]
        before = np.empty_like(drawn)
        for bucket, count in self.counts.items():
            before[drawn == bucket] = np.arange(count)
        return drawn, before


@lru_cache(maxsize=256)
def _stretch(count: int, key: int, number: int) -> Indices:
    """`STRETCH` places of a permutation: one by one, arrays would cost a hundred times as much."""
    places = np.arange(number * STRETCH, min(count, (number + 1) * STRETCH), dtype=np.uint64)
    return permute(places, count, key)


def _feistel(numbers: Indices, half: int, key: int) -> Indices:
    """A permutation of the numbers of 2 * half bits."""
    mask, width = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = numbers >> width, numbers & mask
    for step in range(ROUNDS):
        left, right = right, left ^ _scramble(right + np.uint64(_mix(key, step))) & mask
    return left << width | right


def _scramble(x: Indices) -> Indices:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of x moves every bit of the result."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


@lru_cache(maxsize=4096)
def _mix(key: int, number: int) -> int:
    """One 64-bit key out of two numbers."""
    start = np.array([(key * 0x9E3779B97F4A7C15 + number + 1) % (1 << 64)], np.uint64)
    return int(_scramble(_scramble(start) + np.uint64(number % (1 << 64)))[0])
