"""How much noise: the levels that a network was trained on.

Everything lives in one space, x = x0 + sigma * noise.  Sigmas stay on the CPU.  Which levels a run visits is in
`schedules.py`, where the random numbers come from in `sources.py`.

Shapes: T levels of a table.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LEAST_ALPHA = 2**-24
"""In place of nothing at zero terminal SNR, as in diffusers: sigma 4096."""
SIGMA_CAP = 1e8
"""Stands for infinite noise (flow at t = 1, zero terminal SNR); solvers in exponential form do not notice."""


@dataclass(frozen=True, kw_only=True)
class Betas:
    """The variances that a model's training added, level by level.

    scaled_linear is linear in the root (Stable Diffusion), linear is Ho et al. 2020, cosine is Nichol and Dhariwal
    2021, equation 17, which has no start and caps the variance at `end`; given is `table`, of `num_levels` numbers.
    A flow has even times t of (1 - t) x0 + t noise, from `start` to `end` (Liu et al. 2022).
    With `zero_snr` nothing of the picture is left at the last level (Lin et al. 2023, algorithm 1).
    """

    kind: Literal["scaled_linear", "linear", "cosine", "given", "flow"]
    start: float
    end: float
    num_levels: int = 1000
    table: tuple[float, ...] = ()
    zero_snr: bool = False

    def values(self) -> Tensor:
        """T, float64."""
        assert self.kind != "flow", "a flow adds no variances level by level"
        if self.kind == "given":
            return torch.tensor(self.table, dtype=torch.float64)
        if self.kind == "cosine":
            return _cosine_betas(self.num_levels).clamp(max=self.end)
        root = 2 if self.kind == "scaled_linear" else 1
        ends = self.start ** (1 / root), self.end ** (1 / root)
        return torch.linspace(*ends, self.num_levels, dtype=torch.float64) ** root

    def alphas(self) -> Tensor:
        """The share of the picture's variance that is left at every level.  T, float64, falling, above 0."""
        if self.kind == "flow":
            times = torch.linspace(self.start, self.end, self.num_levels, dtype=torch.float64)
            return 1 / (1 + (times / (1 - times)) ** 2)
        alphas = torch.cumprod(1 - self.values(), dim=0)
        if self.zero_snr:
            roots = alphas.sqrt()
            alphas = (((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2).clamp(min=LEAST_ALPHA)
        return alphas


STABLE_DIFFUSION = Betas(kind="scaled_linear", start=0.00085, end=0.012)
DDPM = Betas(kind="linear", start=1e-4, end=0.02)
COSINE = Betas(kind="cosine", start=0.0, end=0.999)
FLOW = Betas(kind="flow", start=0.001, end=0.999)


class NoiseTable:
    """The noise levels of a discrete-time model, and its clock: t 0 to T - 1, fractions allowed."""

    def __init__(self, betas: Betas) -> None:
        alphas = betas.alphas()
        self.sigmas = ((1 - alphas) / alphas).sqrt()  # T, float64, rising
        self.log_sigmas = self.sigmas.log()

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at a time; between whole times the logarithm is interpolated.  Any shape, float64."""
        t = t.double().clamp(0, len(self.sigmas) - 1)
        low = t.floor().long().clamp(max=len(self.sigmas) - 2)
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[low + 1], t - low).exp()

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of `sigma`; noise outside the table has the time of its end."""
        log = sigma.double().clamp(min=1e-12).log()
        low = (torch.searchsorted(self.log_sigmas, log) - 1).clamp(0, len(self.sigmas) - 2)
        step = self.log_sigmas[low + 1] - self.log_sigmas[low]
        return (low + (log - self.log_sigmas[low]) / step).clamp(0, len(self.sigmas) - 1)


def _cosine_betas(num_levels: int) -> Tensor:
    t = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
    alphas = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - alphas[1:] / alphas[:-1]
