"""Samplers for distilled models, which leap to the picture (or near it) and go back up with fresh noise."""

from itertools import pairwise

from torch import Tensor

from marmo.diffusion.samplers.contract import Clock, Noise, Query, Sampling


def lcm(x: Tensor, sigmas: Tensor, noise: Noise) -> Sampling:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023): all the noise is fresh."""
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x = (yield Query(x, s, index)).x0
        if t > 0:
            x = x + t * noise(s, t)
    return x


def tcd(x: Tensor, sigmas: Tensor, noise: Noise, eta: float, clock: Clock) -> Sampling:
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4).

    A step aims at (1 - eta) of the next time, on the model's own clock, and goes back up to that time; eta is the
    paper's gamma, 0 to 1.
    """
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        down = clock.sigma((1 - eta) * clock.time(t)).to(t).clamp(max=t) if t > 0 and eta > 0 else t
        x = x0 + (down / s) * (x - x0)
        if down < t:
            x = x + (t**2 - down**2).sqrt() * noise(s, t)
    return x
