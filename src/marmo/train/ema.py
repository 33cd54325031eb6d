"""Averages of a network's weights along its training.

A constant decay is the usual exponential moving average.  The power function of Karras et al. 2024, "Analyzing and
Improving the Training Dynamics of Diffusion Models" (https://arxiv.org/abs/2312.02696), section 3, has a length that
grows with the run: the weights at time tau count with tau**gamma, and `sigma_rel` is the width of that profile relative
to the run.  From snapshots of two such averages `reconstruct` finds, after the run, the average of any other width.

Written from the paper.  Time is counted in images.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from marmo.weights.store import Tensors, from_state

Decay = Callable[[int, int], float]
"""(images seen, of these in the last update) -> how much of the old average stays."""


def constant(decay: float) -> Decay:
    """The same share at every update, 0.9999 say."""
    if not 0 <= decay < 1:
        raise ValueError(f"an average's decay is at least 0 and below 1, not {decay}")
    return lambda images, batch: decay


def power(sigma_rel: float) -> Decay:
    """Karras et al. 2024, equation 4: (1 - dt / t)**(gamma + 1); the first update takes the weights as they are."""
    gamma = exponent(sigma_rel)
    return lambda images, batch: (1 - batch / images) ** (gamma + 1)


def exponent(sigma_rel: float) -> float:
    """The gamma of a relative width, 0.05 or 0.10 say.

    The profile's variance is (gamma + 1) / ((gamma + 2)**2 (gamma + 3)), a cubic equation in gamma (appendix C).
    """
    if not 0 < sigma_rel < 12**-0.5:  # at 0.289 all weights count the same: gamma is 0
        raise ValueError(f"a power average has a sigma_rel above 0 and below 0.288, not {sigma_rel}")
    precision = sigma_rel**-2
    roots = np.roots([1, 7, 16 - precision, 12 - precision])
    return float(roots.real.max())


class Average:
    """A copy of a network that follows it; `model` is the averaged network, ready for use."""

    def __init__(self, model: nn.Module, decay: Decay) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, images: int, batch: int) -> None:
        """Follow `model`, which has seen `images`, `batch` of them since the last update."""
        share = 1 - self.decay(images, batch)
        for mean, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            if weight.requires_grad:  # what does not learn stays as it is, to the bit
                mean.lerp_(weight.to(mean.dtype), share)
        for mean, value in zip(self.model.buffers(), model.buffers(), strict=True):
            mean.copy_(value)  # counters and running statistics are averages already


class Profile(NamedTuple):
    """How a power average weighs the past: its exponent, and the images seen when it was taken."""

    gamma: float
    images: float


def reconstruct(snapshots: Mapping[Profile, Tensors], sigma_rel: float, images: int) -> Tensors:
    """The power average of width `sigma_rel` at `images`, as the snapshots' best combination; read tensor by tensor."""
    if not snapshots:
        raise ValueError("there are no snapshots to reconstruct an average from")
    weights = combination(list(snapshots), Profile(exponent(sigma_rel), images))
    sources = list(snapshots.values())
    infos = from_state({name: sources[0].read(name).float() for name in sources[0].infos}).infos

    def read(name: str) -> Tensor:
        parts = [source.read(name).double() * weight for source, weight in zip(sources, weights, strict=True)]
        return torch.stack(parts).sum(0).float()

    return Tensors(infos, read, sources[0].metadata)


def combination(known: Sequence[Profile], wanted: Profile) -> list[float]:
    """The weights with which the known profiles come nearest to the wanted one in the sense of least squares."""
    gram = np.array([[_product(one, other) for other in known] for one in known])
    target = np.array([_product(one, wanted) for one in known])
    scale = np.sqrt(np.diag(gram))  # each profile at length 1: their sizes differ by orders of magnitude
    solved = np.linalg.lstsq(gram / np.outer(scale, scale), target / scale, rcond=1e-12)[0] / scale
    return [float(weight) for weight in solved / solved.sum()]


def _product(one: Profile, other: Profile) -> float:
    """The inner product of two profiles (gamma + 1) tau**gamma / t**(gamma + 1), tau from 0 to t (appendix C)."""
    end = min(one.images, other.images)
    heights = (one.gamma + 1) * (other.gamma + 1) / (one.gamma + other.gamma + 1)
    return (
        heights
        * (end / one.images) ** one.gamma
        * (end / other.images) ** other.gamma
        * end
        / (one.images * other.images)
    )
