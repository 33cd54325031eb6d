"""Guidance: which rows to ask the network at a step, and how to combine the answers.

A guidance never runs a network and never looks into a condition, so any pair of functions of this form will do: a
negative prompt is a condition like another; regions, edits by step or two scales are other rows with another sum.

Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.samplers import Prediction, Query

Condition = TypeVar("Condition")
Row = TypeVar("Row", covariant=True)


class Guidance(Protocol[Row]):
    """The contract between a sampler's question and a network's rows."""

    def rows(self, index: int, sigma: float) -> Sequence[Row]:
        """The conditions under which the network must be asked at this step."""
        ...

    def combine(self, query: Query, x0s: Sequence[Tensor]) -> Prediction:
        """One answer from the x0 of every row, in the order of `rows`; each B C H W."""
        ...


@dataclass(frozen=True)
class Unguided(Generic[Condition]):
    """The conditional model as it is: what a guidance scale of 1 means."""

    cond: Condition

    def rows(self, index: int, sigma: float) -> Sequence[Condition]:
        return (self.cond,)

    def combine(self, query: Query, x0s: Sequence[Tensor]) -> Prediction:
        return Prediction(x0s[0], cond=x0s[0])


@dataclass(frozen=True)
class ClassifierFree(Generic[Condition]):
    """Away from the unconditional (or negative) answer by `scale` (Ho and Salimans 2022).

    Args:
        scale: 1 is the conditional model.
        rescale: share of the result whose contrast is brought back to the conditional answer's, measured on the
            network's own output (Lin et al. 2023, section 3.4).
        low, high: the guidance acts where low < sigma <= high (Kynkaanniemi et al. 2024); elsewhere only the
            conditional row is asked.
    """

    cond: Condition
    uncond: Condition
    scale: float
    parametrisation: Parametrisation
    rescale: float = 0.0
    low: float = 0.0
    high: float = float("inf")

    def rows(self, index: int, sigma: float) -> Sequence[Condition]:
        return (self.uncond, self.cond) if self.low < sigma <= self.high else (self.cond,)

    def combine(self, query: Query, x0s: Sequence[Tensor]) -> Prediction:
        if len(x0s) == 1:
            return Prediction(x0s[0], cond=x0s[0])
        uncond, cond = x0s
        x0 = uncond + self.scale * (cond - uncond)
        if self.rescale:
            x0 = self._rescaled(query, x0, cond)
        return Prediction(x0, cond, uncond)

    def _rescaled(self, query: Query, x0: Tensor, cond: Tensor) -> Tensor:
        """Lin et al. 2023, equations 15 and 16."""
        sigma = query.sigma.expand(len(x0))
        guided, plain = (self.parametrisation.to_output(query.x, answer, sigma) for answer in (x0, cond))
        ratio = _contrast(plain) / _contrast(guided)
        factor = self.rescale * ratio + (1 - self.rescale)
        return self.parametrisation.to_x0(query.x, guided * factor, sigma)


def _contrast(x: Tensor) -> Tensor:
    return x.std(dim=(1, 2, 3), keepdim=True)
