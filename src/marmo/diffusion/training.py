"""What a denoiser is trained with: at which noise it looks, what it sees, what it shall say and how much that counts.

The target is the network output that means x0 (`Parametrisation.to_output`).  A squared error of the output counts
c_out**2 times as much in x0, so with the signal-to-noise ratio 1 / sigma**2 the weights of Hang et al. 2023 ("Efficient
Diffusion Training via Min-SNR Weighting Strategy", section 3.4) are min(SNR, gamma) c_out**2 for every target:

    eps     min(SNR, gamma) / SNR
    v       min(SNR, gamma) / (SNR + 1)
    x0      min(SNR, gamma)
    flow    min(SNR, gamma) / (1 + SNR**0.5)**2

Shapes: B batch, C channels, H W height and width.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.noise import NoiseTable

GOLDEN = 0.6180339887498949


class Lesson(NamedTuple):
    """A batch as the network learns from it."""

    seen: Tensor  # B C H W
    clock: Tensor  # B
    target: Tensor  # B C H W
    weights: Tensor  # B


def lesson(
    parametrisation: Parametrisation, x0: Tensor, noise: Tensor, sigma: Tensor, min_snr: float | None = None
) -> Lesson:
    """Noisy pictures, and what the network shall say of them.

    Args:
        x0, noise: B C H W, on any device; noise is standard normal.
        sigma: B, on the CPU.
        min_snr: the gamma of the weights; without one every error of the output counts the same.
    """
    row, s = parametrisation.exact(sigma), sigma.double()
    seen = _mix(x0, row.c_in, noise, row.c_in * s)
    # (x0 - c_skip (x0 + sigma noise)) / c_out, as two factors: the noise may be 1e8 times as large as the picture
    target = _mix(x0, (1 - row.c_skip) / row.c_out, noise, -row.c_skip * s / row.c_out)
    weights = torch.ones_like(s) if min_snr is None else (s**-2).clamp(max=min_snr) * row.c_out**2
    return Lesson(seen, row.c_noise.float().to(x0.device), target, weights.float().to(x0.device))


def evenly(position: int, seed: int) -> float:
    """A share in [0, 1) for an image of a run: any images that follow each other have evenly spread ones.

    Multiples of the golden ratio, begun elsewhere for every seed.  Even noise levels in a batch make the loss less
    noisy (Kingma et al. 2021, "Variational Diffusion Models", appendix I.1).
    """
    return (position * GOLDEN + (seed * 0.754877666) % 1) % 1


def middling(share: float, spread: float) -> float:
    """A share in (0, 1), one of logit-normal ones, for one of even ones (Esser et al. 2024, equation 19).

    Args:
        spread: the standard deviation; below 1.6 the middle comes more often than the ends.
    """
    normal = NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
    return 1 / (1 + math.exp(-spread * normal))


def levels(table: NoiseTable, shares: Tensor) -> Tensor:
    """The noise at whole times, each equally often.  shares B in [0, 1) -> sigma B, float64"""
    return table.sigmas[(shares.double() * len(table.sigmas)).long().clamp(max=len(table.sigmas) - 1)]


def flow_levels(shares: Tensor, shift: float = 1.0) -> Tensor:
    """The noise of a rectified flow whose times are logit-normal (Esser et al. 2024, section 3.1 and equation 23).

    Args:
        shift: above 1 for more noise, which larger pictures need.

    shares B in [0, 1) -> sigma B, float64, about 1e-4 to 1e4.
    """
    normal = math.sqrt(2) * torch.erfinv(2 * shares.double().clamp(1e-9, 1 - 1e-9) - 1)
    return shift * normal.exp()  # the odds t / (1 - t) of a logit


def _mix(x0: Tensor, of_x0: Tensor, noise: Tensor, of_noise: Tensor) -> Tensor:
    share, rest = (factor.float().to(x0.device)[:, None, None, None] for factor in (of_x0, of_noise))
    return share * x0 + rest * noise
