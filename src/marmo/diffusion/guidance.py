"""Guidance: which rows to ask the network at a step, and how to combine the answers.

A guidance never runs a network and never looks into a condition, so any pair of functions of this form will do: a
negative prompt is a condition like another; regions, edits by step or two scales are other rows with another sum.

Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.samplers import Prediction, Query

Condition = TypeVar("Condition")
Row = TypeVar("Row", covariant=True)
Weight = float | Tensor
"""Of a condition: a number, or one for every place, 1 1 H W."""


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
            x0 = _rescaled(self.parametrisation, query, x0, cond, self.rescale)
        return Prediction(x0, cond, uncond)


@dataclass(frozen=True)
class Composed(Generic[Condition]):
    """Several conditions that pull together: uncond + scale * sum of weight * (cond - uncond) (Liu et al. 2022).

    Regions are conditions whose weights are areas: where these add up to 1, the guidance is as strong as of one alone.
    With one condition of weight 1 it is `ClassifierFree`, whose other arguments it shares; where `low` and `high` end
    the guidance, the scale is 1.  The unconditional row is asked only where it has a share in the sum.
    """

    conds: Sequence[Condition]
    weights: Sequence[Weight]
    uncond: Condition
    scale: float
    parametrisation: Parametrisation
    rescale: float = 0.0
    low: float = 0.0
    high: float = float("inf")
    keeps_uncond: bool = False
    """Whether the unconditional row is asked in any case, for a sampler that uses it"""

    def rows(self, index: int, sigma: float) -> Sequence[Condition]:
        whole = self._scale(sigma) * torch.as_tensor(sum(self.weights))
        is_whole = bool(torch.isclose(whole, torch.ones_like(whole), rtol=0, atol=1e-6).all())
        return self.conds if is_whole and not self.keeps_uncond else (self.uncond, *self.conds)

    def combine(self, query: Query, x0s: Sequence[Tensor]) -> Prediction:
        scale = self._scale(float(query.sigma))
        if len(x0s) == len(self.conds):
            x0 = _sum(x0s, [weight * scale for weight in self.weights])
            return Prediction(x0, cond=x0)
        uncond, *conds = x0s
        pulls = [cond - uncond for cond in conds]
        cond = uncond + _sum(pulls, self.weights)
        x0 = uncond + _sum(pulls, [weight * scale for weight in self.weights])
        if self.rescale and scale != 1:
            x0 = _rescaled(self.parametrisation, query, x0, cond, self.rescale)
        return Prediction(x0, cond, uncond)

    def _scale(self, sigma: float) -> float:
        return self.scale if self.low < sigma <= self.high else 1.0


@dataclass(frozen=True)
class BothWays(Generic[Condition]):
    """Towards a picture as well as towards words (Brooks et al. 2023, equation 3).

    blind + scale * (uncond - blind) + words * (cond - uncond), written as `words` gives it, and on it what differs from
    a scale of 1.  Where `words` does not ask its unconditional row, the picture's pull ends too.

    Args:
        uncond: the row of `words` without words, which sees the picture.
        blind: the row that sees neither.
        scale: 1 is `words` alone.
    """

    words: Guidance[Condition]
    uncond: Condition
    blind: Condition
    scale: float

    def rows(self, index: int, sigma: float) -> Sequence[Condition]:
        rows = self.words.rows(index, sigma)
        return (self.blind, *rows) if any(row is self.uncond for row in rows) else rows

    def combine(self, query: Query, x0s: Sequence[Tensor]) -> Prediction:
        num_words = len(self.words.rows(query.index, float(query.sigma)))
        prediction = self.words.combine(query, x0s[len(x0s) - num_words :])
        if len(x0s) == num_words or prediction.uncond is None:
            return prediction
        return prediction._replace(x0=prediction.x0 + (self.scale - 1) * (prediction.uncond - x0s[0]))


@dataclass(frozen=True)
class Timed(Generic[Condition]):
    """Another guidance at every step: a prompt that changes on the way."""

    at: Callable[[int, float], Guidance[Condition]]
    """(index of the step, sigma) -> the guidance there"""

    def rows(self, index: int, sigma: float) -> Sequence[Condition]:
        return self.at(index, sigma).rows(index, sigma)

    def combine(self, query: Query, x0s: Sequence[Tensor]) -> Prediction:
        return self.at(query.index, float(query.sigma)).combine(query, x0s)


def _sum(values: Sequence[Tensor], weights: Sequence[Weight]) -> Tensor:
    first, *others = (value * weight for value, weight in zip(values, weights, strict=True))
    return sum(others, start=first)


def _rescaled(parametrisation: Parametrisation, query: Query, x0: Tensor, cond: Tensor, share: float) -> Tensor:
    """Lin et al. 2023, equations 15 and 16."""
    sigma = query.sigma.expand(len(x0))
    guided, plain = (parametrisation.to_output(query.x, answer, sigma) for answer in (x0, cond))
    ratio = _contrast(plain) / _contrast(guided)
    factor = share * ratio + (1 - share)
    return parametrisation.to_x0(query.x, guided * factor, sigma)


def _contrast(x: Tensor) -> Tensor:
    return x.std(dim=(1, 2, 3), keepdim=True)
