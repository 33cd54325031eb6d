"""DPM-Solver++ for the diffusion's stochastic equation (Lu et al. 2022, section 6; Crowson's forms with eta).

eta 0 is the deterministic equation, 1 the stochastic one.  The noise of a step is the increment of a Brownian path in
sigma: questions about overlapping steps must agree, so `noise` is a path and not a stream.  The step to 0 is x0 itself.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from marmo.diffusion.samplers.contract import Noise, Query, Sampling
from marmo.diffusion.samplers.euler import split


def dpmpp_sde(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Sampling:
    """Of order 2 in one step: x0 in the middle, in log sigma, stands for the whole step."""
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        if t > 0:
            middle = (s * t).sqrt()
            x0 = (yield Query(_fresh_step(x, x0, s, middle, noise, eta), middle, index)).x0
        x = _fresh_step(x, x0, s, t, noise, eta)
    return x


def _fresh_step(x: Tensor, x0: Tensor, s: Tensor, t: Tensor, noise: Noise, eta: float) -> Tensor:
    down, up = split(s, t, eta)
    x = x0 + (down / s) * (x - x0)
    return x + up * noise(s, t) if up > 0 else x


def dpmpp_2m_sde(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Sampling:
    """Two steps of x0 along a line, whose middle stands for the step."""
    return _two_steps(x, sigmas, noise, eta, lambda h: -math.expm1(-h) / 2)


def dpmpp_2m_sde_heun(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Sampling:
    """The same with the line integrated exactly."""
    return _two_steps(x, sigmas, noise, eta, _phi_2)


def _two_steps(x: Tensor, sigmas: Tensor, noise: Noise, eta: float, weight: Callable[[float], float]) -> Sampling:
    before: Tensor | None = None
    length = math.inf
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        if t == 0:
            return x0
        last, length = length, math.log(s / t)
        x = _decayed(x, x0, length, eta)
        if before is not None:
            x = x + weight((1 + eta) * length) * (length / last) * (x0 - before)
        x = _noised(x, s, t, noise, eta)
        before = x0
    return x


def dpmpp_3m_sde(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Sampling:
    """Three steps of x0 along a parabola.

    As published: its second difference has half the weight of the exact integral, so the order is 2 (docs/samplers.md).
    """
    x0s: list[Tensor] = []
    lengths: list[float] = []  # in log sigma, the newest first
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0s = [(yield Query(x, s, index)).x0, *x0s[:2]]
        if t == 0:
            return x0s[0]
        lengths = [math.log(s / t), *lengths[:2]]
        x = _decayed(x, x0s[0], lengths[0], eta)
        if len(x0s) > 1:
            x = x + _bend(x0s, lengths, (1 + eta) * lengths[0])
        x = _noised(x, s, t, noise, eta)
    return x


def _bend(x0s: list[Tensor], lengths: list[float], h: float) -> Tensor:
    """What the slope and the second difference of x0 add to a step; h is its length times 1 + eta."""
    now, before, *rest = x0s
    ratio = lengths[1] / lengths[0]
    slope = (now - before) / ratio
    if not rest:
        return _phi_2(h) * slope
    older = lengths[2] / lengths[0]
    second = (slope - (before - rest[0]) / older) / (ratio + older)
    return _phi_2(h) * (slope + ratio * second) - (_phi_2(h) / h - 0.5) * second


def _phi_2(h: float) -> float:
    """The integral of v h exp(h (v - 1)) for v from 0 to 1."""
    return 1 + math.expm1(-h) / h


def _decayed(x: Tensor, x0: Tensor, length: float, eta: float) -> Tensor:
    """The step with x0 held fixed, without its noise."""
    return x0 + math.exp(-(1 + eta) * length) * (x - x0)


def _noised(x: Tensor, s: Tensor, t: Tensor, noise: Noise, eta: float) -> Tensor:
    if eta == 0:
        return x
    return x + float(t) * math.sqrt(-math.expm1(-2 * eta * math.log(s / t))) * noise(s, t)
