"""Random choices that are the same on every machine and in every Python: they rest on `Random.random()` alone."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of choices that a text decides."""

    def __init__(self, key: str) -> None:
        self._random = Random(key)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def near(self, middle: float, reach: float) -> float:
        """Within `reach` of `middle`, and more often close to it."""
        return middle + reach * (self._random.random() + self._random.random() - 1)

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self._random.random() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One of the keys, as often as its share of the weights."""
        left = self._random.random() * sum(weights.values())
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        return next(reversed(list(weights)))


class StillDice(Dice):
    """They always fall on the middle of what can be, and on the first of several things."""

    def __init__(self) -> None:
        super().__init__("")

    def chance(self, probability: float) -> bool:
        return probability > 0.5

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def near(self, middle: float, reach: float) -> float:
        return middle

    def choice(self, items: Sequence[T]) -> T:
        return items[0]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """The key of the largest share."""
        return max(weights, key=lambda item: weights[item])


def share(key: str) -> float:
    """A number in [0, 1) that the text decides: below 0.1 for a tenth of all texts."""
    return int.from_bytes(sha256(key.encode()).digest()[:8]) / 2**64
