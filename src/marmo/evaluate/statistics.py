"""How far a number can be trusted: intervals by the bootstrap and by Wilson's formula, and differences of two models.

    share(hits, clusters=prompts)                a share of right answers
    average([share(...), share(...)])            the mean of the shares of several tags
    mean(scores, clusters=prompts)               a mean score
    difference(first, second, clusters=prompts)  two models on the same prompts
    bootstrap(statistic, n)                      anything that can be computed with weights

Four pictures of one prompt are not four independent answers: they fail together.  `clusters` says which values belong
together, and whole clusters are drawn.  Everything is float64 and a function of its seed.

Efron and Tibshirani, An Introduction to the Bootstrap (1993): percentile and BCa intervals, the cluster bootstrap.
Wilson (1927); Franco et al. (2019) for the effective number of answers behind a share.

    N values, G clusters, D draws
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, cast

import torch
from torch import Tensor

Method = Literal["bca", "percentile"]
Statistic = Callable[[Tensor], Tensor]
"""Weights of the values, D N -> the number under each row of weights, D; weights of 1 give the plain number."""

BLOCK = 2**24
"""Entries of a matrix of weights that are held at once."""

LEAST = 1e-9
"""A tail that no number of resamples shows: two or three values leave so little."""

MANY = 5000
"""Clusters from which on the correction for skew, which falls with their root, is not worth its quadratic time."""


@dataclass(frozen=True)
class Estimate:
    """A number and the interval in which it may lie."""

    value: float
    low: float
    high: float
    n: int
    """Values behind it; with clusters, these are fewer independent ones than it seems."""

    def __str__(self) -> str:
        digits = _digits(self.high - self.low, self.value)
        value, low, high = (f"{number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}] n={self.n}"

    def covers(self, value: float) -> bool:
        """Whether the interval holds `value`: a difference that covers 0 shows nothing."""
        return self.low <= value <= self.high


def wilson(hits: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share `hits / n`; honest at 0 and 1 too, where the bootstrap has no width."""
    assert 0 <= hits <= n and n > 0
    z, p = _z(confidence), hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The ends are exact where rounding would leave the share outside its own interval.
    return (0.0 if p == 0 else max(0.0, centre - reach)), (1.0 if p == 1 else min(1.0, centre + reach))


def share(hits: Tensor, clusters: Tensor | None = None, confidence: float = 0.95) -> Estimate:
    """The mean of values in [0, 1] (right or wrong, half for a tie) with Wilson's interval.

    With clusters, Wilson's `n` is the number of independent answers that would be as uncertain; where all answers
    agree, and nothing can be said about that, it is the number of clusters.
    """
    values = _checked(hits)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"a share is of values from 0 to 1, not {values.min():g} to {values.max():g}")
    value = float(values.mean())
    n = _effective(values, clusters)
    return Estimate(value, *wilson(value * n, n, confidence), len(values))


def mean(
    values: Tensor,
    clusters: Tensor | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    confidence: float = 0.95,
    method: Method = "bca",
) -> Estimate:
    """The mean of N values with a bootstrap interval."""
    values = _checked(values)

    def statistic(weights: Tensor) -> Tensor:
        return weights @ values / weights.sum(1)

    return bootstrap(statistic, len(values), clusters, seed=seed, draws=draws, confidence=confidence, method=method)


def average(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent numbers, each counting the same: GenEval's overall score from the shares of its tags.

    The intervals are put together by MOVER (Zou and Donner 2008), so that Wilson's honesty at 0 and 1 is kept.
    """
    if not parts:
        raise ValueError("an average needs at least one number")
    value = sum(part.value for part in parts) / len(parts)
    below = math.hypot(*(part.value - part.low for part in parts)) / len(parts)
    above = math.hypot(*(part.high - part.value for part in parts)) / len(parts)
    return Estimate(value, value - below, value + above, sum(part.n for part in parts))


def difference(
    first: Tensor,
    second: Tensor,
    clusters: Tensor | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """How much higher the first model scores, the two having had the same prompts in the same order.

    Paired: what makes a prompt hard for both falls out, so this sees far smaller differences than two intervals do.
    """
    if first.shape != second.shape:
        raise ValueError(f"a paired difference needs the same prompts twice, not {len(first)} and {len(second)}")
    return mean(first.double() - second.double(), clusters, seed=seed, draws=draws, confidence=confidence)


def bootstrap(
    statistic: Statistic,
    n: int,
    clusters: Tensor | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    confidence: float = 0.95,
    method: Method = "bca",
) -> Estimate:
    """The number that `statistic` gives for N values, with the interval of its resamples.

    Args:
        clusters: N, a label per value; whole clusters are drawn.
        method: `bca` corrects the percentiles for bias and skew, which matters for few values.

    Both are widened as Student's t is against the normal, because resamples of few values vary too little: the expanded
    percentile interval of Hesterberg (2015).
    """
    value = float(statistic(torch.ones(1, n, dtype=torch.float64))[0])
    drawn, numbers = _resample(statistic, n, clusters, seed, draws), numbered(n, clusters)
    tail = _tail(confidence, int(numbers.max()) + 1)
    low, high = tail, 1 - tail
    if method == "bca":
        low, high = _bca(statistic, value, drawn, numbers, (low, high))
    return Estimate(value, *_quantiles(drawn, low, high), n)


def half_jackknife(
    statistic: Callable[[Tensor], float],
    n: int,
    clusters: Tensor | None = None,
    *,
    halves: int = 32,
    seed: int = 0,
) -> float:
    """The standard error of a number that is too dear to compute thousands of times, from its values on random halves.

    For numbers that the bootstrap would bend, such as a Frechet distance, which repeated values make larger.  Shao and
    Wu, A general theory for jackknife variance estimation (1989): with half of the values left out, the spread over
    the halves is the standard error of the whole.

    Args:
        statistic: which of the N values to use -> the number.
    """
    numbers = numbered(n, clusters)
    count = int(numbers.max()) + 1
    if count < 4:
        raise ValueError(f"a standard error needs at least 4 independent values, not {count}")
    draw = torch.Generator().manual_seed(seed)
    chosen = [torch.randperm(count, generator=draw)[: count // 2] for _ in range(halves)]
    found = [statistic(torch.isin(numbers, half).nonzero()[:, 0]) for half in chosen]
    # An odd cluster left out: d = count - count // 2.
    scale = (count // 2) / (count - count // 2)
    return math.sqrt(scale) * float(torch.tensor(found, dtype=torch.float64).std())


def normal_interval(value: float, error: float, n: int, confidence: float = 0.95) -> Estimate:
    """A number with a standard error as an estimate."""
    reach = _z(confidence) * error
    return Estimate(value, value - reach, value + reach, n)


def numbered(n: int, clusters: Tensor | None) -> Tensor:
    """The clusters of N values as 0, 1, 2, ..., whatever their labels; each value its own where there are none."""
    if clusters is None:
        return torch.arange(n)
    if clusters.shape != (n,):
        raise ValueError(f"{n} values need {n} cluster labels, not {tuple(clusters.shape)}")
    return cluster_numbers(cast(list[float], clusters.tolist()))  # pyright: ignore[reportUnknownMemberType]


def cluster_numbers(labels: Sequence[Hashable]) -> Tensor:
    """Names of prompts or voters as the numbers that `clusters` wants."""
    known = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([known[label] for label in labels])


def _resample(statistic: Statistic, n: int, clusters: Tensor | None, seed: int, draws: int) -> Tensor:
    """The statistic of `draws` resamples."""
    numbers, draw = numbered(n, clusters), torch.Generator().manual_seed(seed)
    count, parts = int(numbers.max()) + 1, list[Tensor]()
    for rows in _blocks(draws, n + count):
        chosen = torch.randint(count, (rows, count), generator=draw)
        times = torch.zeros(rows, count, dtype=torch.float64)
        times.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
        parts.append(statistic(times[:, numbers]))
    return torch.cat(parts)


def _tail(confidence: float, count: int) -> float:
    """The share of resamples to cut off at each end, after Hesterberg; Student's t by Cornish and Fisher."""
    if count < 2:
        return (1 - confidence) / 2
    z, nu = _z(confidence), count - 1
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return NormalDist().cdf(-math.sqrt(count / nu) * t)


def _bca(
    statistic: Statistic, value: float, drawn: Tensor, numbers: Tensor, levels: tuple[float, float]
) -> tuple[float, float]:
    """The levels at which the percentiles are taken.  Efron (1987), equations 14.9, 14.10 and 14.15 of the book."""
    below = float((drawn < value).double().mean() + (drawn == value).double().mean() / 2)
    if not 0 < below < 1 or levels[0] < LEAST or int(numbers.max()) == 0:
        return levels  # every resample lies on one side, or the ends are the outermost: there is nothing to correct
    normal = NormalDist()
    bias, skew = normal.inv_cdf(below), 0.0
    if numbers.max() < MANY:
        skew = _acceleration(_leave_one_out(statistic, numbers))

    def corrected(level: float) -> float:
        shifted = bias + normal.inv_cdf(level)
        return normal.cdf(bias + shifted / (1 - skew * shifted))

    return corrected(levels[0]), corrected(levels[1])


def _leave_one_out(statistic: Statistic, numbers: Tensor) -> Tensor:
    """The statistic without each cluster in turn, G."""
    count, parts, start = int(numbers.max()) + 1, list[Tensor](), 0
    for rows in _blocks(count, len(numbers)):
        left_out = torch.arange(start, start + rows)
        parts.append(statistic((numbers != left_out[:, None]).double()))
        start += rows
    return torch.cat(parts)


def _acceleration(jackknife: Tensor) -> float:
    deviation = jackknife.mean() - jackknife
    spread = float(deviation.square().sum())
    return 0.0 if spread == 0 else float(deviation.pow(3).sum()) / (6 * spread**1.5)


def _effective(values: Tensor, clusters: Tensor | None) -> float:
    """The number of independent answers that would leave a share as uncertain as these clusters do (Kish)."""
    n, p = len(values), float(values.mean())
    if clusters is None:
        return n
    numbers = numbered(n, clusters)
    count = int(numbers.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).scatter_add_(0, numbers, values - p)
    if count == 1 or p in (0.0, 1.0):
        return count
    variance = count / (count - 1) * float(sums.square().sum()) / n**2
    return min(float(n), max(1.0, p * (1 - p) / variance)) if variance > 0 else n


def _checked(values: Tensor) -> Tensor:
    values = values.detach().cpu().double()
    if values.ndim != 1 or not len(values) or not values.isfinite().all():
        raise ValueError(f"a list of finite values is needed, not a tensor of shape {tuple(values.shape)}")
    return values


def _quantiles(drawn: Tensor, low: float, high: float) -> tuple[float, float]:
    ends = torch.quantile(drawn, torch.tensor([low, high], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """How many of the rows to take at a time."""
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield min(step, rows - start)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _digits(width: float, value: float) -> int:
    """Decimals that show two figures of the interval's width; of the value, where there is no width."""
    size = width or abs(value) or 1.0
    return min(12, max(0, 1 - math.floor(math.log10(size))))
