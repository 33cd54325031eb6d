"""Which noise levels a run visits: falling lists of sigmas, picked from a model's table, that end in 0.

Shapes: T levels of a table, S steps.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from marmo.diffusion.noise import NoiseTable

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


def polyexponential(table: NoiseTable, steps: int, rho: float = 1.0) -> Tensor:
    """A power of an even fall in log sigma; with rho 1, as k-diffusion and A1111 have it, this is `exponential`."""
    low, high = float(table.log_sigmas[0]), float(table.log_sigmas[-1])
    return (low + torch.linspace(1, 0, steps, dtype=torch.float64) ** rho * (high - low)).exp()


def sgm_uniform(table: NoiseTable, steps: int) -> Tensor:
    """Even times from the last to the first, without the first: the step to 0 is like the others (Stability AI)."""
    return table.sigma(torch.linspace(len(table.sigmas) - 1, 0, steps + 1, dtype=torch.float64)[:-1])


def ddim_uniform(table: NoiseTable, steps: int) -> Tensor:
    """Whole times 1, 1 + c, 1 + 2c, ... with c = T // steps, to the end of the table: `leading` and what it cuts off.

    For some numbers of steps these are more levels than steps: 33 for 32.
    """
    stride = max(len(table.sigmas) // steps, 1)
    return table.sigmas[1::stride].flip(0)


def beta(table: NoiseTable, steps: int) -> Tensor:
    """Quantiles of the beta distribution between the least sigma and the largest (A1111, diffusers)."""
    low, high = table.sigmas[0], table.sigmas[-1]
    return low + beta_quantile(torch.linspace(1, 0, steps, dtype=torch.float64)) * (high - low)


def beta_times(table: NoiseTable, steps: int) -> Tensor:
    """Quantiles of the beta distribution between the times, rounded (Lee et al. 2024; ComfyUI's `beta`)."""
    share = torch.arange(steps, dtype=torch.float64) / steps
    times = (beta_quantile(1 - share) * (len(table.sigmas) - 1)).round().long()
    return table.sigmas[times]


def kl_optimal(table: NoiseTable, steps: int) -> Tensor:
    """Even in the arc tangent of sigma (Sabour et al. 2024, theorem 3.1)."""
    low, high = (float(table.sigmas[end].atan()) for end in (0, -1))
    return torch.linspace(high, low, steps, dtype=torch.float64).tan()


# Sabour et al. 2024, for 10 steps; the eleventh level is where the others are interpolated to, the run goes on to 0
ALIGN_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGN_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def align_your_steps(table: NoiseTable, steps: int) -> Tensor:
    """The levels that were optimised for Stable Diffusion 1.5; other numbers than 10 are interpolated in log sigma."""
    return _aligned(ALIGN_SD1, table, steps)


def align_your_steps_sdxl(table: NoiseTable, steps: int) -> Tensor:
    """The same for SDXL."""
    return _aligned(ALIGN_SDXL, table, steps)


SCHEDULES: dict[str, Schedule] = {
    "normal": normal,
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "beta_times": beta_times,
    "kl_optimal": kl_optimal,
    "align_your_steps": align_your_steps,
    "align_your_steps_sdxl": align_your_steps_sdxl,
}


def schedule(name: str, table: NoiseTable, steps: int, discard_penultimate: bool = False) -> Tensor:
    """The noise levels of a run.  S + 1, float32, strictly falling, the last one 0.

    S is `steps`, but for `ddim_uniform`, which may have more.  With `discard_penultimate` they are those of one step
    more, without the last level above 0 (A1111 and ComfyUI, for some samplers).  Raises `ValueError` for more steps
    than a schedule of whole times has levels.
    """
    sigmas = SCHEDULES[name](table, steps + discard_penultimate).float()
    if discard_penultimate:
        sigmas = sigmas[:-1]
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


BETA = 0.6
"""Both parameters of the beta distribution (Lee et al. 2024)."""


def beta_quantile(share: Tensor) -> Tensor:
    """Where the beta distribution has this share below it.  Any shape, float64.

    Its upper half mirrors the lower one, whose share rises ever slower: there Newton's method cannot fail.
    """
    lower = torch.minimum(share, 1 - share)
    density = math.gamma(2 * BETA) / math.gamma(BETA) ** 2
    x = (lower * BETA / density) ** (1 / BETA)
    for _ in range(8):
        slope = density * x ** (BETA - 1) * (1 - x) ** (BETA - 1)  # infinite at 0
        x = x - (density * x**BETA * _beta_series(x) - lower) / slope
    return torch.where(share > 0.5, 1 - x, x)


def _beta_series(x: Tensor) -> Tensor:
    """The incomplete beta function over x^BETA for x up to 1/2 (DLMF 8.17.7), by Horner's rule."""
    factors = [1.0]
    for n in range(1, 55):
        factors.append(factors[-1] * (n - BETA) / n)
    total = torch.zeros_like(x)
    for n in reversed(range(55)):
        total = total * x + factors[n] / (BETA + n)
    return total


def _aligned(levels: tuple[float, ...], table: NoiseTable, steps: int) -> Tensor:
    """`levels` interpolated to steps + 1, without the last."""
    if abs(float(table.sigmas[-1]) / levels[0] - 1) > 1e-3:
        raise ValueError(
            f"align_your_steps knows models that start at sigma {levels[0]:g}, and this one starts at "
            f"{float(table.sigmas[-1]):g}; use karras"
        )
    places = np.linspace(0, len(levels) - 1, steps + 1)[:-1]
    return torch.as_tensor(np.exp(np.interp(places, np.arange(len(levels)), np.log(levels))))
