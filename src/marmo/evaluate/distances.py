"""How far a set of generated pictures lies from a set of real ones, in the features of some encoder.

    frechet(moments(real), moments(generated))    means and covariances alone; the field's FID
    kid(real, generated)                          a polynomial kernel; unbiased, so few pictures suffice
    cmmd(real, generated)                         a Gaussian kernel on CLIP's embeddings
    sliced(real, generated)                       earth mover's distance along random directions; MIND
    prdc(real, generated)                         precision and density (quality), recall and coverage (variety)

A number belongs to its encoder, its number of pictures and the way they were resized; none is comparable across these.
All of it is float64.  Sources stand at the functions.

    N real pictures, M generated ones, D width of the features
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from torch import Tensor

from marmo.evaluate.neighbours import blocks, check, radii
from marmo.evaluate.statistics import Estimate, half_jackknife, mean, normal_interval, numbered, share

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Features A D and B D -> their similarities, A B."""

BLOCK = 2**23
"""Entries of a kernel matrix that are held at once."""

INSIDE = 1 - 1e-9
"""Where sets share pictures, the neighbour that ends a ball must not fall into it by rounding."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of N features; moments of parts add up to those of the whole."""

    n: int
    mean: Tensor
    """D"""
    covariance: Tensor
    """D D, of the sample (divided by N - 1)"""

    def __add__(self, other: "Moments") -> "Moments":
        """Chan, Golub and LeVeque (1979): no cancellation, however far the mean lies from 0."""
        n, shift = self.n + other.n, other.mean - self.mean
        scatter = self.covariance * (self.n - 1) + other.covariance * (other.n - 1)
        scatter = scatter + torch.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), scatter / (n - 1))


@dataclass(frozen=True)
class Frechet:
    """A Frechet distance and what it rests on."""

    value: float
    n: int
    """Pictures of the smaller set"""
    width: int

    @property
    def meaningful(self) -> bool:
        """With fewer pictures than numbers in a feature, the covariances are singular and the value is mostly bias."""
        return self.n > self.width

    def __str__(self) -> str:
        text = f"{self.value:.4g} n={self.n}"
        few = f"not meaningful: {self.n} pictures for {self.width} numbers each; use the kernel distance"
        return text if self.meaningful else f"{text} ({few})"


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features, N D."""
    check(features)
    values = features.detach().double()
    centre = values.mean(0)
    deviation = values - centre
    return Moments(len(values), centre, deviation.T @ deviation / max(1, len(values) - 1))


def streamed(batches: Iterable[Tensor]) -> Moments:
    """The same from batches, of which only one is held at a time."""
    try:
        return reduce(Moments.__add__, map(moments, batches))
    except TypeError:
        raise ValueError("there are no features to take the mean of") from None


def frechet(first: Moments, second: Moments) -> Frechet:
    """The squared Frechet distance of two Gaussians with these moments.  Dowson and Landau (1982); FID: Heusel (2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).  The trace of the root is the sum of the singular values of
    C1^(1/2) C2^(1/2), which needs no root of an unsymmetric matrix and stands singular covariances.
    """
    width = len(first.mean)
    if len(second.mean) != width:
        raise ValueError(f"features of {width} and of {len(second.mean)} numbers come from different encoders")
    product = _root(first.covariance).T @ _root(second.covariance)
    overlap = _nuclear(product)
    spread = first.covariance.trace() + second.covariance.trace() - 2 * overlap
    value = (first.mean - second.mean).square().sum() + spread
    return Frechet(max(0.0, float(value)), min(first.n, second.n), width)


def frechet_estimate(
    real: Moments, generated: Tensor, clusters: Tensor | None = None, *, halves: int = 32, seed: int = 0
) -> Estimate:
    """The Frechet distance with a 95 % interval for chance in the generated pictures, by the half jackknife.

    The interval is about the value that so many pictures give on average, which lies above the distance of infinitely
    many; two models are compared at the same number of pictures.  Takes `halves` decompositions of D D matrices.
    """
    root = _root(real.covariance)

    def of_part(chosen: Tensor) -> float:
        part = moments(generated[chosen])
        overlap = _nuclear(root.T @ _root(part.covariance))
        spread = part.covariance.trace() - 2 * overlap
        return float((part.mean - real.mean).square().sum() + spread)

    error = half_jackknife(of_part, len(generated), clusters, halves=halves, seed=seed)
    return normal_interval(frechet(real, moments(generated)).value, error, len(generated))


def kid(real: Tensor, generated: Tensor, clusters: Tensor | None = None) -> Estimate:
    """The kernel distance from all pictures: unbiased MMD^2 with the kernel (x . y / D + 1)^3.  Binkowski (2018).

    Unbiased: it may be negative, and its mean does not depend on the number of pictures.  The 95 % interval is by the
    jackknife over real pictures and over generated ones (or their clusters); where both sets are of one distribution
    it is too wide.
    """
    if min(len(real), len(generated)) < 3:
        raise ValueError(f"a kernel distance needs 3 pictures on each side, not {len(real)} and {len(generated)}")
    labels = numbered(len(generated), clusters).to(generated.device)
    if labels.max() < 2:
        raise ValueError(f"a standard error needs 3 clusters of pictures, not {int(labels.max()) + 1}")
    x, y = _sides(cubic, real.double(), generated.double(), None if clusters is None else labels)
    variance = _jackknife(x, torch.arange(len(real), device=real.device), len(generated))
    variance += _jackknife(y, labels, len(real))
    return normal_interval(_unbiased(x, y), math.sqrt(variance), len(generated))


def kid_subsets(
    real: Tensor, generated: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of KID over random subsets, as the field prints them.

    The deviation is that of one subset; it is not the standard error of the mean, because the subsets overlap.
    """
    if size > min(len(real), len(generated)):
        raise ValueError(f"subsets of {size} need {size} pictures; there are {min(len(real), len(generated))}")
    draw, found = torch.Generator().manual_seed(seed), list[float]()
    for _ in range(subsets):
        x = real[torch.randperm(len(real), generator=draw)[:size]]
        y = generated[torch.randperm(len(generated), generator=draw)[:size]]
        found.append(_unbiased(*_sides(cubic, x.double(), y.double())))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def cmmd(real: Tensor, generated: Tensor) -> float:
    """CLIP's maximum mean discrepancy: 1000 MMD^2 with a Gaussian kernel of width 10 on unit embeddings.

    Jayasumana et al. (2024).  Published numbers are of CLIP ViT-L/14 at 336 pixels; the estimate is their biased one,
    never negative, so it shrinks with more pictures.
    """
    x, y = (torch.nn.functional.normalize(features.double(), dim=1) for features in (real, generated))
    return 1000 * _biased(*_sides(gaussian, x, y))


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Tensor, y: Tensor, width: float = 10.0) -> Tensor:
    """CMMD's kernel."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return torch.exp(-squares / (2 * width**2))


def sliced(real: Tensor, generated: Tensor, *, directions: int = 1000, seed: int = 0) -> float:
    """MIND: 3 D times the squared sliced 2-Wasserstein distance.  Berthet et al. (2026), arXiv:2605.06797.

    Along each of `directions` random lines, both sets are sorted and matched.  It sees what two moments do not, and
    settles with a tenth of FID's pictures; like FID it is biased upward by few, so compare at equal numbers.  The
    authors take equal sets; here sets of any size are matched exactly, and equal ones give their formula.
    """
    check(real, generated)
    draw = torch.Generator().manual_seed(seed)
    width, total = real.shape[1], 0.0
    rows, columns, lengths = _transport(len(real), len(generated))
    for count in (min(100, directions - done) for done in range(0, directions, 100)):
        lines = torch.nn.functional.normalize(torch.randn(count, width, dtype=torch.float64, generator=draw), dim=1)
        x, y = ((features.double().cpu() @ lines.T).sort(0).values for features in (real, generated))
        total += float(lengths @ (x[rows] - y[columns]).square().sum(1))
    return 3 * width * total / directions


@dataclass(frozen=True)
class Manifold:
    """Quality and variety apart, by balls around pictures.

    The intervals are over the pictures that are counted; the balls are taken as given.
    """

    precision: Estimate
    """Share of generated pictures inside a ball of a real one; one outlying real picture has a big ball"""
    recall: Estimate
    """Share of real pictures inside a ball of a generated one"""
    density: Estimate
    """In how many real balls a generated picture lies, over `k`; about 1 where the sets are alike, and may be more"""
    coverage: Estimate
    """Share of real pictures whose ball holds a generated one"""
    k: int


def prdc(real: Tensor, generated: Tensor, clusters: Tensor | None = None, *, k: int = 5) -> Manifold:
    """Precision and recall (Kynkaanniemi 2019), density and coverage (Naeem 2020).

    The ball of a picture ends before its `k`-th nearest neighbour in its own set: 3 in the first paper, 5 in the
    second.  All four depend on the numbers of pictures, so sets are compared at equal sizes.
    """
    real_radii, generated_radii = (radii(features, k) * INSIDE for features in (real, generated))
    inside = torch.zeros(len(generated), dtype=torch.float64, device=real.device)
    recalled, covered = list[Tensor](), list[Tensor]()
    for start, distances in blocks(real, generated):
        in_ball = distances < real_radii[start : start + len(distances), None]
        inside += in_ball.sum(0)
        covered.append(in_ball.any(1))
        recalled.append((distances < generated_radii).any(1))
    return Manifold(
        precision=share(inside > 0, clusters),
        recall=share(torch.cat(recalled)),
        density=mean(inside / k, clusters),
        coverage=share(torch.cat(covered)),
        k=k,
    )


@dataclass(frozen=True)
class _Side:
    """What each picture of one set adds to a kernel's sums."""

    within: Tensor
    """N, over the others of its set, itself left out"""
    twins: Tensor
    """N, the part of `within` that its own cluster gives"""
    across: Tensor
    """N, over the other set"""


def _sides(kernel: Kernel, x: Tensor, y: Tensor, labels: Tensor | None = None) -> tuple[_Side, _Side]:
    """Both sets, N D and M D; `labels` are the clusters of the second."""
    check(x, y)
    of_x, of_y = list[Tensor](), torch.zeros(len(y), dtype=x.dtype, device=y.device)
    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        block = kernel(x[start : start + step], y)
        of_x.append(block.sum(1))
        of_y += block.sum(0)
    return _Side(*_within(kernel, x, None), torch.cat(of_x)), _Side(*_within(kernel, y, labels), of_y)


def _within(kernel: Kernel, own: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sums of each picture with the others of its set, and with those of its cluster, N each."""
    parts, twins = list[Tensor](), list[Tensor]()
    step = max(1, BLOCK // len(own))
    for start in range(0, len(own), step):
        block = kernel(own[start : start + step], own)
        numbers = torch.arange(len(block), device=block.device)
        block[numbers, start + numbers] = 0
        parts.append(block.sum(1))
        if labels is not None:
            twins.append((block * (labels[start : start + step, None] == labels)).sum(1))
    within = torch.cat(parts)
    return within, torch.cat(twins) if twins else torch.zeros_like(within)


def _unbiased(x: _Side, y: _Side) -> float:
    """MMD^2 without bias.  Gretton et al. (2012), equation 3."""
    n, m = len(x.within), len(y.within)
    within = x.within.sum() / (n * (n - 1)) + y.within.sum() / (m * (m - 1))
    return float(within - 2 * x.across.sum() / (n * m))


def _biased(x: _Side, y: _Side) -> float:
    """MMD^2 with every picture compared with itself too; the kernel is 1 there.  Equation 5."""
    n, m = len(x.within), len(y.within)
    within = (x.within.sum() + n) / n**2 + (y.within.sum() + m) / m**2
    return float(within - 2 * x.across.sum() / (n * m))


def _jackknife(side: _Side, labels: Tensor, others: int) -> float:
    """The variance of MMD^2 from one of its sets: what changes when each cluster in turn is left out."""
    count = int(labels.max()) + 1

    def added(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=values.dtype, device=values.device).scatter_add_(0, labels, values)

    left = len(labels) - added(torch.ones_like(side.within))
    within = side.within.sum() - 2 * added(side.within) + added(side.twins)
    across = side.across.sum() - added(side.across)
    values = within / (left * (left - 1)) - 2 * across / (left * others)
    return (count - 1) / count * float((values - values.mean()).square().sum())


def _root(covariance: Tensor) -> Tensor:
    """A factor F with F F^T = covariance; rounding below 0 is cut."""
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(covariance.double()))  # pyright: ignore[reportUnknownMemberType]
    return vectors * values.clamp(min=0).sqrt()


def _nuclear(matrix: Tensor) -> Tensor:
    """The sum of the singular values."""
    return cast(Tensor, torch.linalg.svdvals(matrix)).sum()  # pyright: ignore[reportUnknownMemberType]


def _transport(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """How n sorted values move onto m: pairs of places, and the share of all mass that each pair moves."""
    starts = torch.cat([torch.arange(n) * m, torch.arange(m) * n]).sort().values  # in parts of 1 / (n m): exact
    lengths = torch.diff(starts, append=torch.tensor([n * m]))
    return starts // m, starts // n, lengths.double() / (n * m)
