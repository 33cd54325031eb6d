"""Philox 4x32-10: the counter-based generator behind CUDA's random numbers (Salmon et al. 2011).

A block of four 32-bit words is a function of a counter of four words and a key of two.  torch.randn on CUDA takes one
block for each element: the key is the seed, word 0 of the counter is the draw, word 2 the element, and the first two
words of the block give a normal number by Box and Muller's transform.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint64]
"""32-bit words in 64 bits, so that products fit."""

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: Sequence[Words], key: Sequence[int]) -> list[Words]:
    """Ten rounds.  Four arrays of words and two words -> four arrays of words."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        left, right = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b = (right >> HALF) ^ b ^ np.uint64(first), right & LOW
        c, d = (left >> HALF) ^ d ^ np.uint64(second), left & LOW
        first, second = (first + KEY_STEPS[0]) & 0xFFFFFFFF, (second + KEY_STEPS[1]) & 0xFFFFFFFF
    return [a, b, c, d]


class Philox:
    """A stream of torch.randn on CUDA, as long as a draw has no more elements than the card runs threads.

    The logarithm and the sine are float64's, CUDA's are float32's: the numbers agree to about 3e-7.
    """

    def __init__(self, seed: int) -> None:
        self.key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
        self.draws = 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next numbers, standard normal, float32."""
        element = np.arange(math.prod(shape), dtype=np.uint64)
        nothing = np.zeros_like(element)
        first, second, _, _ = philox([nothing + np.uint64(self.draws), nothing, element, nothing], self.key)
        self.draws += 1
        return torch.as_tensor(_box_muller(first, second)).reshape(*shape)


def _box_muller(first: Words, second: Words) -> npt.NDArray[np.float32]:
    """Two words -> a normal number; a full turn is CUDA's float32 value of 2 pi."""
    radius = np.sqrt(-2 * np.log((first + 0.5) / 2**32))
    angle = (second + 0.5) / 2**32 * float(np.float32(2 * math.pi))
    return (radius * np.sin(angle)).astype(np.float32)
