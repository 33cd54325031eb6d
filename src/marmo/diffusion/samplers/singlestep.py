"""Solvers of second order that forget: they ask twice in a step and need no earlier answer.

Those in raw sigma, as published, refuse a start at the cap.
"""

from itertools import pairwise

from torch import Tensor

from marmo.diffusion.samplers.contract import Noise, Query, Sampling, refuse_capped
from marmo.diffusion.samplers.euler import split


def heun(x: Tensor, sigmas: Tensor) -> Sampling:
    """Heun's method in sigma (Karras et al. 2022, algorithm 1), in raw form."""
    refuse_capped("heun", sigmas)
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x = yield from heun_step(x, s, t, index)
    return x


def heun_step(x: Tensor, s: Tensor, t: Tensor, index: int) -> Sampling:
    """Euler's guess, and the mean of the slopes at both ends; to 0, where there is no slope, the guess alone."""
    slope = (x - (yield Query(x, s, index)).x0) / s
    guess = x + (t - s) * slope
    if t > 0:
        slope = (slope + (guess - (yield Query(guess, t, index)).x0) / t) / 2
    return x + (t - s) * slope


def dpm_2(x: Tensor, sigmas: Tensor) -> Sampling:
    """The midpoint method, with the middle in log sigma (Karras et al. 2022, after DPM-Solver-2), in raw form."""
    refuse_capped("dpm_2", sigmas)
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x = yield from _midpoint_step(x, s, t, index)
    return x


def dpm_2_ancestral(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Sampling:
    """`dpm_2` to the deterministic part of every level, then fresh noise."""
    refuse_capped("dpm_2_ancestral", sigmas)
    for index, (s, t) in enumerate(pairwise(sigmas)):
        down, up = split(s, t, eta)
        x = yield from _midpoint_step(x, s, down, index)
        if up > 0:
            x = x + up * noise(s, t)
    return x


def dpmpp_2s_ancestral(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Sampling:
    """DPM-Solver++(2S) to the deterministic part of every level (Lu et al. 2022, algorithm 1), then fresh noise.

    The middle of its step is even in log sigma, and x0 there stands for x0 everywhere.
    """
    for index, (s, t) in enumerate(pairwise(sigmas)):
        down, up = split(s, t, eta)
        x0 = (yield Query(x, s, index)).x0
        if down > 0:
            middle = (s * down).sqrt()
            x0 = (yield Query(x0 + (middle / s) * (x - x0), middle, index)).x0
        x = x0 + (down / s) * (x - x0)
        if up > 0:
            x = x + up * noise(s, t)
    return x


def _midpoint_step(x: Tensor, s: Tensor, t: Tensor, index: int) -> Sampling:
    """The slope in the middle for the whole step; to 0, whose middle is 0, Euler's method."""
    slope = (x - (yield Query(x, s, index)).x0) / s
    if t > 0:
        middle = (s * t).sqrt()
        guess = x + (middle - s) * slope
        slope = (guess - (yield Query(guess, middle, index)).x0) / middle
    return x + (t - s) * slope
