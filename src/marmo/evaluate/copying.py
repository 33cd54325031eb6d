"""Does a model paint its training pictures again?  Features of generated, training and held-out real pictures decide.

    report = examine(generated, train, heldout)
    print(report.verdict)

Held-out pictures are real ones of the same source that the model never saw: they show how close a new picture comes.
Four questions, because each is blind somewhere:

    copy_test       do generated pictures lie closer to training pictures than new real ones do?  Meehan et al. (2020)
    split_test      is the nearest real picture one of training more often than chance puts it there?
    near_copies     how many are almost a training picture?
    authenticity    how many are closer to a training picture than its own nearest neighbour is?  Alaa et al. (2022)

All but the second also react to a model that paints only the most typical pictures; the second does not, and tells the
two apart.  Distances are those of the features: an encoder that is blind to a detail finds copies where there are
none, and misses copies that were flipped if a flip changes its features.

    M generated pictures, N training pictures, H held-out ones, D width of the features
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from marmo.evaluate.neighbours import blocks, centres, check, nearest
from marmo.evaluate.statistics import Estimate, share

CLEAR = 3.0
"""Standard errors from which on a verdict is given: chance alone goes so far once in 700 times."""


@dataclass(frozen=True)
class Nearest:
    """For every generated picture, the nearest training picture and the nearest held-out one."""

    train_index: Tensor
    """M"""
    train_distance: Tensor
    """M"""
    heldout_index: Tensor
    """M"""
    heldout_distance: Tensor
    """M"""
    between: Tensor
    """H, from every held-out picture to its nearest training picture: what is usual"""
    num_train: int

    @property
    def ratio(self) -> Tensor:
        """M, distance to training over distance to held-out: near 0 for a copy, about 1 for a new picture."""
        return self.train_distance / self.heldout_distance.clamp(min=1e-12)

    def closest(self, count: int) -> Tensor:
        """The generated pictures to look at first: those with the smallest ratio."""
        return self.ratio.argsort(stable=True)[:count]


@dataclass(frozen=True)
class SplitTest:
    """Whose neighbours the generated pictures are."""

    share: float
    """Of generated pictures, those whose nearest real picture is of training"""
    expected: float
    """The same, if training had nothing to do with it: the share of training pictures among the real ones"""
    z: float

    @property
    def verdict(self) -> str:
        """One sentence."""
        numbers = f"{self.share:.1%} instead of {self.expected:.1%}, z = {self.z:.1f}"
        if self.z > CLEAR:
            return f"The nearest real picture is a training picture too often ({numbers}): it remembers pictures."
        return f"Training pictures are nearest no more often than chance puts them there ({numbers})."


@dataclass(frozen=True)
class Cell:
    """One region of the features."""

    train: int
    heldout: int
    generated: int
    z: float
    """Below 0: closer to training pictures than held-out ones are"""
    counted: bool
    """Whether enough generated pictures fell into it"""


@dataclass(frozen=True)
class CopyTest:
    """The data-copying test of Meehan, Chaudhuri and Dasgupta."""

    c_t: float
    """Their statistic: the cells' z, weighted by held-out pictures"""
    z: float
    """The same over its standard error where training has no influence: this one is compared with a normal"""
    cells: tuple[Cell, ...]

    @property
    def verdict(self) -> str:
        """One sentence."""
        numbers = f"C_T = {self.c_t:.1f}, z = {self.z:.1f}"
        if self.z < -CLEAR:
            return f"Generated pictures lie closer to training pictures than new real pictures do ({numbers})."
        if self.z > CLEAR:
            return f"Generated pictures lie farther from training pictures than new real pictures do ({numbers})."
        return f"Generated pictures lie as far from training pictures as new real pictures do ({numbers})."


@dataclass(frozen=True)
class Shares:
    """A share of the generated pictures, and the same for held-out ones, which says what is usual."""

    generated: Estimate
    heldout: Estimate


@dataclass(frozen=True)
class NearCopies(Shares):
    """Pictures that are almost a training picture."""

    threshold: float
    """Distance below which a picture counts as almost the same"""
    indices: Tensor
    """The generated pictures that are, closest first"""
    split: SplitTest
    """Of those within the threshold of any real picture"""

    @property
    def verdict(self) -> str:
        """One sentence."""
        numbers = f"{self.generated.value:.1%} of them, {self.heldout.value:.1%} of new real pictures"
        if self.generated.low <= self.heldout.high:
            return f"Generated pictures are almost a training picture no more often than is usual ({numbers})."
        if self.split.z > CLEAR:
            return f"Many generated pictures are almost a training picture ({numbers})."
        return f"Many generated pictures are almost a real one ({numbers}), but of training no more than held out."


@dataclass(frozen=True)
class CopyReport:
    """All four answers."""

    nearest: Nearest
    split: SplitTest
    copy: CopyTest
    near_copies: NearCopies
    authentic: Shares

    @property
    def verdict(self) -> str:
        """What the answers say together."""
        if max(self.split.z, self.near_copies.split.z) > CLEAR:
            return f"It copies. {self.split.verdict} {self.near_copies.verdict}"
        if self.copy.z < -CLEAR:
            return (
                f"No proof of copying, but too little variety. {self.copy.verdict} {self.split.verdict} "
                "That is how a model looks that paints only the most typical pictures."
            )
        return f"No sign of copying. {self.copy.verdict} {self.split.verdict}"


@dataclass(frozen=True)
class Twins:
    """Pictures of one set that are almost the same."""

    pairs: Tensor
    """P 2, closest first, no more than were asked for"""
    distances: Tensor
    """P"""
    count: int
    """Pairs in all"""
    pictures: int
    """Pictures that have a twin"""


def examine(
    generated: Tensor,
    train: Tensor,
    heldout: Tensor,
    clusters: Tensor | None = None,
    *,
    num_cells: int = 3,
    quantile: float = 0.01,
    seed: int = 0,
) -> CopyReport:
    """The whole report.

    Args:
        generated: M D; `train`: N D; `heldout`: H D.
        clusters: M, which generated pictures are of one prompt.
        num_cells: regions that the copy test looks at apart; dgm-eval takes 3.
        quantile: the share of held-out pictures that count as almost a training picture.
    """
    found = neighbours(generated, train, heldout)
    return CopyReport(
        nearest=found,
        split=split_test(found),
        copy=copy_test(generated, train, heldout, num_cells=num_cells, seed=seed),
        near_copies=near_copies(found, clusters, quantile=quantile),
        authentic=authenticity(generated, train, heldout, clusters),
    )


def neighbours(generated: Tensor, train: Tensor, heldout: Tensor) -> Nearest:
    """The nearest real pictures."""
    check(generated, train, heldout)
    (train_distance, train_index), (heldout_distance, heldout_index), (between, _) = (
        nearest(queries, keys) for queries, keys in ((generated, train), (generated, heldout), (heldout, train))
    )
    return Nearest(
        train_index[:, 0], train_distance[:, 0], heldout_index[:, 0], heldout_distance[:, 0], between[:, 0], len(train)
    )


def split_test(found: Nearest, within: float = math.inf) -> SplitTest:
    """Whether it matters which real pictures were trained on, for generated pictures `within` a distance of a real one.

    Training and held-out pictures were split by chance, so without copying every other split is as likely.  How often
    each real picture is the nearest is counted; over all splits the sum of the training pictures' counts has the mean
    and variance of sampling without replacement, which give z.  It holds for any model that has not seen the split,
    however bad or narrow.  It has most power for sets of equal size, and little where nearly all are of training.
    """
    num_train, total = found.num_train, found.num_train + len(found.between)
    to_train = found.train_distance < found.heldout_distance
    chosen = torch.minimum(found.train_distance, found.heldout_distance) <= within
    mine = torch.where(to_train, found.train_index, found.heldout_index + num_train)[chosen]
    hits, expected = float(to_train[chosen].sum()), num_train / total
    if not len(mine):
        return SplitTest(expected, expected, 0.0)
    variance = float(torch.bincount(mine, minlength=total).double().var(correction=0))
    error = math.sqrt(variance * num_train * (total - num_train) / (total - 1))
    excess = hits - len(mine) * expected
    return SplitTest(hits / len(mine), expected, excess / error if error else 0.0)


def copy_test(
    generated: Tensor,
    train: Tensor,
    heldout: Tensor,
    *,
    num_cells: int = 3,
    seed: int = 0,
    cells: tuple[Tensor, Tensor, Tensor] | None = None,
    least: int = 20,
) -> CopyTest:
    """C_T: in every cell, the Mann-Whitney test of distances to the nearest training picture in the same cell.

    Args:
        cells: the cells of generated, training and held-out pictures, if they are known; else k-means of training.
        least: generated pictures that a cell needs to be counted.
    """
    check(generated, train, heldout)
    if cells is None:
        middles = centres(train, num_cells, seed=seed)
        of_generated, of_train, of_heldout = (nearest(part, middles)[1][:, 0] for part in (generated, train, heldout))
    else:
        of_generated, of_train, of_heldout = cells
        num_cells = int(of_train.max()) + 1
    found = tuple(
        _cell(
            generated[of_generated == number], train[of_train == number], heldout[of_heldout == number], number, least
        )
        for number in range(num_cells)
    )
    if not any(cell.counted for cell in found):
        raise ValueError(f"no cell holds {least} generated pictures: use fewer cells or more pictures")
    weights = [cell.heldout for cell in found if cell.counted]
    c_t = sum(cell.heldout * cell.z for cell in found if cell.counted) / sum(weights)
    return CopyTest(c_t, c_t * sum(weights) / math.hypot(*weights), found)


def near_copies(found: Nearest, clusters: Tensor | None = None, *, quantile: float = 0.01) -> NearCopies:
    """Generated pictures that lie closer to a training picture than all but a few held-out ones do."""
    if quantile * len(found.between) < 1:
        raise ValueError(
            f"{len(found.between)} held-out pictures do not show what 1 in {round(1 / quantile)} of them does; "
            f"take {math.ceil(1 / quantile)} of them or a quantile of {1 / len(found.between):.2g}"
        )
    threshold = float(torch.quantile(found.between, quantile))
    close = found.train_distance <= threshold
    order = found.train_distance.argsort(stable=True)
    return NearCopies(
        generated=share(close, clusters),
        heldout=share(found.between <= threshold),
        threshold=threshold,
        indices=order[: int(close.sum())],
        split=split_test(found, threshold),
    )


def authenticity(generated: Tensor, train: Tensor, heldout: Tensor, clusters: Tensor | None = None) -> Shares:
    """The share of pictures that are farther from their training picture than its nearest neighbour in training is.

    AuthPct, for the generated pictures and for held-out ones: alone, it says little.
    """
    gaps = nearest(train, train, same=True)[0][:, 0]

    def authentic(pictures: Tensor) -> Tensor:
        distances, indices = nearest(pictures, train)
        return gaps[indices[:, 0]] < distances[:, 0]

    return Shares(share(authentic(generated), clusters), share(authentic(heldout)))


def twins(features: Tensor, threshold: float, limit: int = 1000) -> Twins:
    """Pairs in one set that are at most `threshold` apart: a model that repeats itself, a collection with doubles."""
    pairs, distances, count = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.float64), 0
    doubled = torch.zeros(len(features), dtype=torch.bool)
    for found, apart in _close(features, threshold):
        count += len(found)
        doubled[found.flatten()] = True
        pairs, distances = torch.cat([pairs, found]), torch.cat([distances, apart])
        closest = distances.argsort(stable=True)[:limit]
        pairs, distances = pairs[closest], distances[closest]
    return Twins(pairs, distances, count, int(doubled.sum()))


def _close(features: Tensor, threshold: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs, P 2, and their distances, P, for some of the pictures at a time."""
    values = features.double()
    rounding = 1e-6 * float(values.abs().max())  # the exact distance decides
    for start, block in blocks(features, features):
        pairs = torch.nonzero(block <= threshold + rounding) + torch.tensor([start, 0], device=block.device)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        distances = (values[pairs[:, 0]] - values[pairs[:, 1]]).square().sum(1).sqrt()
        near = distances <= threshold
        yield pairs[near].cpu(), distances[near].cpu()


def _cell(generated: Tensor, train: Tensor, heldout: Tensor, number: int, least: int) -> Cell:
    if not len(train) or not len(heldout):
        raise ValueError(
            f"cell {number} has {len(train)} training and {len(heldout)} held-out pictures: use fewer cells"
        )
    if not len(generated):
        return Cell(len(train), len(heldout), 0, 0.0, False)
    ours, theirs = (nearest(part, train)[0][:, 0] for part in (generated, heldout))
    return Cell(len(train), len(heldout), len(generated), mann_whitney(ours, theirs), len(generated) >= least)


def mann_whitney(first: Tensor, second: Tensor) -> float:
    """z of the rank test, below 0 where the first values are smaller; the authors' half added, ties not corrected."""
    ordered = second.sort().values
    below = torch.searchsorted(ordered, first.contiguous()) + torch.searchsorted(
        ordered, first.contiguous(), right=True
    )
    n, m = len(first), len(second)
    return float(below.sum() / 2 - (n * m / 2 - 0.5)) / math.sqrt(n * m * (n + m + 1) / 12)
