"""One step that is Euler's method, DDIM, DDPM and Euler ancestral: towards x0, and some fresh noise."""

from itertools import pairwise

import torch
from torch import Tensor

from marmo.diffusion.samplers.contract import Noise, Query, Sampling


def euler(x: Tensor, sigmas: Tensor, noise: Noise | None = None, eta: float = 0.0) -> Sampling:
    """Euler's method in sigma, which is DDIM; with eta 1 the DDPM posterior, which is Euler ancestral.

    Song et al. 2020, equation 16: eta is the share of the posterior's fresh noise.
    """
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        down, up = split(s, t, eta)
        x = x0 + (down / s) * (x - x0)
        if up > 0:
            assert noise is not None, "a sampler with eta needs noise"
            x = x + up * noise(s, t)
    return x


def split(s: Tensor, t: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The deterministic and the fresh part of t: down^2 + up^2 = t^2 (Song et al. 2020, equation 16).

    In float64, because float32 loses `down` in a long step and digits of `up` in a short one.
    """
    s64, t64 = s.double(), t.double()
    up = torch.minimum(t64, eta * t64 * (1 - (t64 / s64) ** 2).sqrt())
    return (t64**2 - up**2).sqrt().to(t), up.to(t)
