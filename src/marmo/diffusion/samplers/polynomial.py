"""Integrals of the polynomials that multistep solvers draw through their known values.

A step is v from 0 to 1.  Scalars are Python floats, which are float64.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def lagrange_integrals(places: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The integral of each polynomial that is 1 at one place and 0 at the others.

    Args:
        places: where the values are known, as v; all different.
        moments: the integrals of 1, v, v^2, ..., as many as places, over the step and under the solver's own measure.
    """
    integrals: list[float] = []
    for place in places:
        others = [other for other in places if other != place]
        rising = np.polynomial.polynomial.polyfromroots(others)
        integrals.append(float(rising @ np.asarray(moments)) / math.prod(place - other for other in others))
    return integrals


def exponential_moments(start: float, end: float, count: int) -> list[float]:
    """The integrals of v^k d(level), k from 0, over a step whose level runs from `start` to `end` evenly in log.

    By parts: m_k = end - k m_(k-1) / log(end / start).
    """
    length = math.log(end / start)
    moments = [end - start]
    for power in range(1, count):
        moments.append(end - power * moments[-1] / length)
    return moments


def weighted_sum(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Of at least one value."""
    first, *rest = (weight * value for weight, value in zip(weights, values, strict=True))
    return sum(rest, start=first)
