"""Nearest neighbours among features, block by block: 10,000 times 10,000 distances never stand in memory at once.

Distances are Euclidean and float64.  Blocks come from one matrix product, which loses digits where two features are
almost the same; the distances to the nearest are therefore computed once more from the features themselves, so that a
copy has distance 0.

    N queries, M keys, D width, K neighbours
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**23
"""Distances that are held at once: 64 MiB, a few times over."""


def nearest(queries: Tensor, keys: Tensor, k: int = 1, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """The `k` nearest keys of every query, nearest first: distances and indices, each N K.

    Args:
        same: queries and keys are one set; nobody is their own neighbour, but an equal twin is.
    """
    available = len(keys) - same
    if not 1 <= k <= available:
        raise ValueError(f"{k} nearest neighbours were asked for, and there are {available} to choose from")
    parts: list[Tensor] = []
    for start, block in blocks(queries, keys):
        if same:
            rows = torch.arange(len(block), device=block.device)
            block[rows, start + rows] = torch.inf
        parts.append(block.topk(k, largest=False).indices)
    indices = torch.cat(parts)
    exact = _exact(queries, keys, indices)
    order = exact.argsort(dim=1, stable=True)
    return exact.gather(1, order), indices.gather(1, order)


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each to its `k`-th nearest neighbour in the same set, N."""
    return nearest(features, features, k, same=True)[0][:, -1]


def centres(features: Tensor, count: int, *, seed: int = 0, rounds: int = 50) -> Tensor:
    """`count` middles of features by k-means, COUNT D; started far apart (Arthur and Vassilvitskii 2007)."""
    if not 1 <= count <= len(features):
        raise ValueError(f"{count} cells need at least as many pictures; there are {len(features)}")
    draw, values = torch.Generator().manual_seed(seed), features.double()
    chosen = [int(torch.randint(len(values), (1,), generator=draw))]
    while len(chosen) < count:
        apart = nearest(values, values[chosen])[0][:, 0].square().cpu()
        # Where all lie on a centre already, any will do.
        weights = apart if apart.sum() > 0 else torch.ones_like(apart)
        chosen.append(int(torch.multinomial(weights, 1, generator=draw)))
    middles = values[chosen]
    for _ in range(rounds):
        cells = nearest(values, middles)[1][:, 0]
        moved = torch.stack([values[cells == cell].mean(0) for cell in range(count)])
        moved = torch.where(moved.isnan(), middles, moved)  # a cell that lost its pictures stays where it was
        if torch.equal(moved, middles):
            break
        middles = moved
    return middles


def blocks(queries: Tensor, keys: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Distances of some queries to all keys: the number of the first query, and a block, B M."""
    check(queries, keys)
    # Far from the origin, the squares would swallow the differences.
    centre = keys.double().mean(0)
    left, right = queries.double() - centre, keys.double() - centre
    squares, step = right.square().sum(1), max(1, BLOCK // len(right))
    for start in range(0, len(left), step):
        rows = left[start : start + step]
        block = torch.addmm(squares + rows.square().sum(1)[:, None], rows, right.T, alpha=-2)
        yield start, block.clamp_(min=0).sqrt_()


def _exact(queries: Tensor, keys: Tensor, indices: Tensor) -> Tensor:
    """N K, one neighbour at a time: all differences at once would be K times the features."""
    columns = [(queries.double() - keys[column].double()).square().sum(1).sqrt() for column in indices.T]
    return torch.stack(columns, dim=1)


def check(*sets: Tensor) -> None:
    """Features are matrices of finite numbers, and all of one width; `ValueError` otherwise."""
    for features in sets:
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features are a matrix, pictures times width, not of shape {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("a feature is infinite or not a number: the encoder failed on a picture")
        if features.shape[1] != sets[0].shape[1]:
            widths = f"{sets[0].shape[1]} and of {features.shape[1]}"
            raise ValueError(f"features of {widths} numbers come from different encoders")
