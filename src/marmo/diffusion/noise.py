"""How much noise, and which: tables of a trained model, schedules that a sampler walks down, sources of random numbers.

Everything lives in one space, x = x0 + sigma * noise.  A table lists the noise levels that a network was trained on; a
schedule picks `steps` of them and ends in 0.  Sigmas stay on the CPU.

Shapes: B batch, C channels, H W height and width, T levels of a table, S steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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
    With `zero_snr` nothing of the picture is left at the last level (Lin et al. 2023, algorithm 1).
    """

    kind: Literal["scaled_linear", "linear", "cosine", "given"]
    start: float
    end: float
    num_levels: int = 1000
    table: tuple[float, ...] = ()
    zero_snr: bool = False

    def values(self) -> Tensor:
        """T, float64."""
        if self.kind == "given":
            return torch.tensor(self.table, dtype=torch.float64)
        if self.kind == "cosine":
            return _cosine_betas(self.num_levels).clamp(max=self.end)
        root = 2 if self.kind == "scaled_linear" else 1
        ends = self.start ** (1 / root), self.end ** (1 / root)
        return torch.linspace(*ends, self.num_levels, dtype=torch.float64) ** root

    def alphas(self) -> Tensor:
        """The share of the picture's variance that is left at every level.  T, float64, falling, above 0."""
        alphas = torch.cumprod(1 - self.values(), dim=0)
        if self.zero_snr:
            roots = alphas.sqrt()
            alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        return alphas.clamp(min=LEAST_ALPHA)


STABLE_DIFFUSION = Betas(kind="scaled_linear", start=0.00085, end=0.012)
DDPM = Betas(kind="linear", start=1e-4, end=0.02)
COSINE = Betas(kind="cosine", start=0.0, end=0.999)


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


Schedule = Callable[[NoiseTable, int], Tensor]
"""(table, steps) -> the S sigmas to visit, falling, float64, without the 0 at the end."""


def normal(table: NoiseTable, steps: int) -> Tensor:
    """Even times from the last to the first."""
    return table.sigma(torch.linspace(len(table.sigmas) - 1, 0, steps, dtype=torch.float64))


def karras(table: NoiseTable, steps: int, rho: float = 7.0) -> Tensor:
    """Even in sigma^(1/rho): small steps where noise is low (Karras et al. 2022, equation 5)."""
    low, high = (float(table.sigmas[end]) ** (1 / rho) for end in (0, -1))
    return torch.linspace(high, low, steps, dtype=torch.float64) ** rho


def exponential(table: NoiseTable, steps: int) -> Tensor:
    """Even in log sigma."""
    return torch.linspace(float(table.log_sigmas[-1]), float(table.log_sigmas[0]), steps, dtype=torch.float64).exp()


def simple(table: NoiseTable, steps: int) -> Tensor:
    """Every (T / steps)-th level, counted from the noisiest, rounded towards it (ComfyUI)."""
    stride = len(table.sigmas) / steps  # rounded here and not after the product, as in ComfyUI: it decides at 38 steps
    times = len(table.sigmas) - 1 - (torch.arange(steps, dtype=torch.float64) * stride).long()
    return table.sigmas[times]


def trailing(table: NoiseTable, steps: int) -> Tensor:
    """Whole times that end at the noisiest (Lin et al. 2023, table 2)."""
    size = len(table.sigmas)
    stride = (size - size / steps) - size  # rounded as numpy.arange does in diffusers: it decides at 48 steps
    times = (size + torch.arange(steps, dtype=torch.float64) * stride).round().long() - 1
    return table.sigmas[times.clamp(min=0)]


def leading(table: NoiseTable, steps: int) -> Tensor:
    """Whole times 1, 1 + c, 1 + 2c, ... with c = T // steps: what Stable Diffusion's own sampler used."""
    size = len(table.sigmas)
    times = torch.arange(steps).flip(0) * (size // steps) + 1
    return table.sigmas[times.clamp(max=size - 1)]


def linspace(table: NoiseTable, steps: int) -> Tensor:
    """Even times from the last to the first, rounded to whole ones; a single step has the first, as in diffusers."""
    stride = (len(table.sigmas) - 1) / max(steps - 1, 1)  # as numpy.linspace does in diffusers: it decides at 27 steps
    times = (torch.arange(steps, dtype=torch.float64) * stride).round().long().flip(0)
    return table.sigmas[times]


SCHEDULES: dict[str, Schedule] = {
    "normal": normal,
    "karras": karras,
    "exponential": exponential,
    "simple": simple,
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
}


def schedule(name: str, table: NoiseTable, steps: int) -> Tensor:
    """The noise levels of a run.  S + 1, float32, strictly falling, the last one 0.

    Raises `ValueError` for more steps than a schedule of whole times has levels.
    """
    sigmas = SCHEDULES[name](table, steps).float()
    if not bool((sigmas[:-1] > sigmas[1:]).all()):
        raise ValueError(f"schedule {name} has no {steps} different noise levels; take fewer steps")
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def last_part(sigmas: Tensor, strength: float, rule: Literal["diffusers", "a1111"]) -> Tensor:
    """The noise levels that image-to-image still walks down.

    diffusers runs int(steps * strength) steps, none at strength 0; AUTOMATIC1111 (`a1111`) runs one more, but not more
    than all.
    """
    steps = len(sigmas) - 1
    left = min(int(steps * strength), steps) if rule == "diffusers" else int(min(strength, 0.999) * steps) + 1
    return sigmas[steps - left :]


class NoiseSource(Protocol):
    """Where a run's random numbers come from: one stream per picture, whatever the batch."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next standard normal numbers of every picture.  shape C H W -> B C H W, float32, on the CPU."""
        ...


class TorchCpu:
    """`torch-cpu`, version 1: a Mersenne twister per picture."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """shape C H W -> B C H W, float32."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self.generators])


NOISE_SOURCES: dict[str, Callable[[Sequence[int]], NoiseSource]] = {"torch-cpu": TorchCpu}


def _cosine_betas(num_levels: int) -> Tensor:
    t = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
    alphas = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - alphas[1:] / alphas[:-1]
