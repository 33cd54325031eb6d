"""UniPC: a predictor and a corrector of one family, with one question a step (Zhao et al. 2023).

x0 is a polynomial in lambda = -log sigma through its known values, and the step from s to t is

    x <- (t / s) x + integral of exp(lambda - lambda_t) x0(lambda)

The predictor's polynomial ends at s.  When the next answer is there, the corrector makes the step again with it.  With
two values the paper takes half of a function B(h) for the integral, which is what its two variants differ in.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from marmo.diffusion.samplers.contract import Query, Sampling
from marmo.diffusion.samplers.polynomial import exponential_moments, lagrange_integrals, weighted_sum

Share = Callable[[float], float]
"""B(h), h the length of a step in lambda."""


def unipc(x: Tensor, sigmas: Tensor) -> Sampling:
    """Of order 3 with B1(h) = h, as A1111 and ComfyUI have it."""
    return _unipc(x, sigmas, 3, lambda h: h)


def unipc_bh2(x: Tensor, sigmas: Tensor) -> Sampling:
    """Of order 2 with B2(h) = 1 - exp(-h), as diffusers has it; its predictor is `dpmpp_2m`."""
    return _unipc(x, sigmas, 2, lambda h: -math.expm1(-h))


def _unipc(x: Tensor, sigmas: Tensor, highest: int, share: Share) -> Sampling:
    """The order falls towards the end, so that the step to 0 is of first order."""
    levels = [float(sigma) for sigma in sigmas]
    start, order, known = x, 1, list[Tensor]()
    for index, (s, t) in enumerate(pairwise(levels)):
        x0 = (yield Query(x, sigmas[index], index)).x0
        if index:
            places = [*_places(levels, index - 1, order), 1.0]
            x = _step(start, [*known[:order], x0], places, levels[index - 1], s, share)
        order = min(highest, index + 1, len(levels) - 1 - index)
        start, known = x, [x0, *known[: highest - 1]]
        x = _step(start, known[:order], _places(levels, index, order), s, t, share)
    return x


def _places(levels: Sequence[float], index: int, order: int) -> list[float]:
    """Where the last values of x0 lie, the newest first, in lambda: 0 is the step's start and 1 its end."""
    if order == 1:
        return [0.0]  # also of the step to 0, whose length is infinite
    s, t = levels[index], levels[index + 1]
    return [math.log(s / levels[index - back]) / math.log(s / t) for back in range(order)]


def _step(x: Tensor, values: Sequence[Tensor], places: Sequence[float], s: float, t: float, share: Share) -> Tensor:
    """From s to t with x0 a polynomial through `values` at `places`; the first of them lies at s."""
    first, *others = values
    x = first + (t / s) * (x - first)
    if not others:
        return x
    if len(others) == 1:
        weights = [share(math.log(s / t)) / (2 * places[1])]
    else:
        _, *weights = lagrange_integrals(places, exponential_moments(t / s, 1.0, len(places)))
    return x + weighted_sum(weights, [other - first for other in others])
