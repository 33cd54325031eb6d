"""Solvers of higher order that remember: one question a step, and the answers of the steps before.

`dpmpp_2m` draws a line through values of x0.  The others fit a polynomial to the slope eps = (x - x0) / sigma and
integrate it over the step (Adams and Bashforth); they differ in the coordinate of the polynomial.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from marmo.diffusion.samplers.contract import Query, Sampling, refuse_capped
from marmo.diffusion.samplers.polynomial import exponential_moments, lagrange_integrals, weighted_sum

Weigh = Callable[[float, Sequence[float]], list[float]]
"""(next level, levels of the known slopes, the newest first) -> a weight for each slope."""


def dpmpp_2m(x: Tensor, sigmas: Tensor) -> Sampling:
    """DPM-Solver++(2M): two steps of x0 (Lu et al. 2022, algorithm 2); the last step is of first order."""
    before: Tensor | None = None
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        target = x0
        if before is not None and t > 0:
            ratio = torch.log(sigmas[index - 1] / s) / torch.log(s / t)
            target = x0 + (x0 - before) / (2 * ratio)
        x = target + (t / s) * (x - target)
        before = x0
    return x


def lms(x: Tensor, sigmas: Tensor) -> Sampling:
    """The linear multistep method of order 4: the slope is a polynomial in sigma."""
    return _adams(x, sigmas, lambda index: min(4, index + 1), _linear_weights)


def deis(x: Tensor, sigmas: Tensor) -> Sampling:
    """DEIS of order 3, log-rho form: the slope is a polynomial in log sigma (Zhang and Chen 2022).

    The order falls towards the end, so that the step to 0, which has no logarithm, is of first order.
    """
    steps = len(sigmas) - 1
    return _adams(x, sigmas, lambda index: min(3, index + 1, steps - index), _log_weights)


EVEN_WEIGHTS = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
"""Of Adams and Bashforth for steps of one size: number of slopes -> weights, the newest first."""


def plms(x: Tensor, sigmas: Tensor) -> Sampling:
    """Pseudo linear multistep: the weights of order 4 for even steps, whatever the steps are (Liu et al. 2022).

    The first step asks twice, as Heun's method does, and is in raw sigma.
    """
    refuse_capped("plms", sigmas)
    slopes: list[Tensor] = []
    for index, (s, t) in enumerate(pairwise(sigmas)):
        slopes = [(x - (yield Query(x, s, index)).x0) / s, *slopes[:3]]
        if len(slopes) == 1:
            x = yield from _trapezoid(x, slopes[0], s, t, index)
        else:
            x = x + (t - s) * weighted_sum(EVEN_WEIGHTS[len(slopes)], slopes)
    return x


def _trapezoid(x: Tensor, slope: Tensor, s: Tensor, t: Tensor, index: int) -> Sampling:
    """Heun's step from a known slope; to 0 Euler's."""
    if t > 0:
        guess = x + (t - s) * slope
        slope = (slope + (guess - (yield Query(guess, t, index)).x0) / t) / 2
    return x + (t - s) * slope


def _adams(x: Tensor, sigmas: Tensor, order: Callable[[int], int], weigh: Weigh) -> Sampling:
    """A polynomial through the last slopes, integrated over the step.

    The weights sum to t - s, so the first slope makes Euler's step, in exponential form, and the others correct it.
    """
    nodes: list[float] = []
    slopes: list[Tensor] = []
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        kept = order(index) - 1
        nodes, slopes = [float(s), *nodes[:kept]], [(x - x0) / s, *slopes[:kept]]
        x = x0 + (t / s) * (x - x0)
        if kept:
            corrections = [slope - slopes[0] for slope in slopes[1:]]
            x = x + weighted_sum(weigh(float(t), nodes)[1:], corrections)
    return x


def _linear_weights(t: float, nodes: Sequence[float]) -> list[float]:
    """Of slopes at `nodes`, the newest first, for the step from nodes[0] to t; polynomials in sigma."""
    size = t - nodes[0]
    places = [(node - nodes[0]) / size for node in nodes]
    return lagrange_integrals(places, [size / (power + 1) for power in range(len(nodes))])


def _log_weights(t: float, nodes: Sequence[float]) -> list[float]:
    """The same with polynomials in log sigma."""
    length = math.log(t / nodes[0])
    places = [math.log(node / nodes[0]) / length for node in nodes]
    return lagrange_integrals(places, exponential_moments(nodes[0], t, len(nodes)))
