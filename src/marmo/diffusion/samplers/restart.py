"""Restart sampling: Heun's method that goes back up with fresh noise, to forget its errors (Xu et al. 2023)."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from marmo.diffusion.samplers.contract import Noise, Sampling, refuse_capped
from marmo.diffusion.samplers.singlestep import heun_step

LOW, HIGH = 0.1, 2.0
"""Where a restart jumps from and to, if the run has a level near them."""


def restart(x: Tensor, sigmas: Tensor, noise: Noise) -> Sampling:
    """A1111's settings: no restart below 20 steps, one of 9 steps up to 35, then two of a quarter of the steps each.

    The steps of the restarts are taken from the run: with restarts its levels are spaced anew, as Karras et al. do,
    between the ends of `sigmas`.
    """
    refuse_capped("restart", sigmas)
    last: Tensor | None = None
    for index, (s, t) in enumerate(_walk(sigmas)):
        if last is not None and last < s:
            x = x + (s**2 - last**2).sqrt() * noise(last, s)
        x = yield from heun_step(x, s, t, index)
        last = t
    return x


def _walk(sigmas: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps (from, to), as many as `sigmas` has."""
    steps = len(sigmas) - 1
    size, times = (0, 0) if steps < 20 else (9, 1) if steps < 36 else (steps // 4, 2)
    if not times:
        yield from pairwise(sigmas)
        return
    main = torch.cat([_karras(sigmas[0], sigmas[-2], steps - size * times), sigmas[-1:]])
    low, high = (int((main - level).abs().argmin()) for level in (LOW, HIGH))
    for index, step in enumerate(pairwise(main)):
        yield step
        if index + 1 == low and high < low:
            again = _karras(main[high], main[low], size + 1)
            for _ in range(times):
                yield from pairwise(again)


def _karras(high: Tensor, low: Tensor, count: int) -> Tensor:
    """Levels even in sigma^(1/7) (Karras et al. 2022, equation 5)."""
    root = torch.linspace(float(high) ** (1 / 7), float(low) ** (1 / 7), count, dtype=torch.float64)
    return (root**7).to(high)
