"""A function of pictures applied piece by piece, so that memory does not grow with the picture; the seams are blended.

Shapes: B batch, C channels, H W height and width in cells; a cell is `inner` numbers of the input and `outer` of the
result wide (a latent is 1 number before the decoder and 8 behind it).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil
from typing import NamedTuple, cast

import torch
from torch import Tensor

from marmo.nn.engine import Wrap


@dataclass(frozen=True)
class Grid:
    """How large the pieces are, in cells."""

    whole: int
    """Cells in all up to which the picture stays in one piece."""
    tile: int
    """The side of a piece."""
    overlap: int
    """Cells that neighbours share, at least."""
    inner: int
    outer: int


class Pieces(NamedTuple):
    """How many tiles a picture is cut into, and how many cells high and wide each is."""

    number: int
    size: tuple[int, int]


def pieces(height: int, width: int, grid: Grid) -> Pieces:
    """The tiles of so many cells that do not wrap."""
    if height * width <= grid.whole:
        return Pieces(1, (height, width))
    count = len(starts(height, grid, wraps=False)) * len(starts(width, grid, wraps=False))
    return Pieces(count, (min(grid.tile, height), min(grid.tile, width)))


Piece = Callable[[Tensor, Wrap], Tensor]
"""What is done with a piece, and along which axes its own edges meet."""


def in_tiles(function: Piece, x: Tensor, channels: int, grid: Grid, wrap: Wrap) -> Tensor:
    """`function(x)`, of `channels`, tile by tile where x is large; see `one_by_one`."""
    walk = one_by_one(x, channels, grid, wrap)
    try:
        part = next(walk)
        while True:
            part = walk.send(function(*part))
    except StopIteration as end:
        return cast(Tensor, end.value)


def one_by_one(x: Tensor, channels: int, grid: Grid, wrap: Wrap) -> Generator[tuple[Tensor, Wrap], Tensor, Tensor]:
    """Yields the pieces of x, is sent what becomes of each, of `channels`, and returns the whole.

    Along an axis that wraps, tiles go on over the edge, so that the result's edges fit as its middle does.
    """
    height, width = x.shape[2] // grid.inner, x.shape[3] // grid.inner
    if height * width <= grid.whole:
        return (yield x, wrap)
    own = Wrap(wrap.height and height <= grid.tile, wrap.width and width <= grid.tile)
    total = x.new_zeros(x.shape[0], channels, height * grid.outer, width * grid.outer)
    down, along = _tiles(height, grid, wrap.height), _tiles(width, grid, wrap.width)
    for (top, above), (left, beside) in product(down, along):
        rows, columns = _cells(top, height, grid), _cells(left, width, grid)
        piece = yield _cut(x, rows, columns, grid.inner), own
        place = _numbers(rows, grid.outer)[:, None], _numbers(columns, grid.outer)
        total[:, :, *place] += piece * (above[:, None] * beside).to(x.device)
    return total


def num_pieces(x: Tensor, grid: Grid, wrap: Wrap) -> int:
    """How many `one_by_one` yields."""
    height, width = x.shape[2] // grid.inner, x.shape[3] // grid.inner
    if height * width <= grid.whole:
        return 1
    return len(starts(height, grid, wrap.height)) * len(starts(width, grid, wrap.width))


def starts(length: int, grid: Grid, wraps: bool) -> list[int]:
    """Where the tiles of so many cells begin: as few as can be, evenly apart; over the edge where the axis wraps."""
    step = grid.tile - grid.overlap
    if length <= grid.tile:
        return [0]
    count = ceil(length / step) if wraps else ceil((length - grid.overlap) / step)
    gaps, way = (count, length) if wraps else (count - 1, length - grid.tile)
    return [round(index * way / gaps) for index in range(count)]


def _cells(start: int, length: int, grid: Grid) -> Tensor:
    """The cells of the tile that begins here, which goes on over the edge."""
    return torch.arange(start, start + min(grid.tile, length)) % length


def _cut(x: Tensor, rows: Tensor, columns: Tensor, inner: int) -> Tensor:
    return x[:, :, _numbers(rows, inner)[:, None], _numbers(columns, inner)]


def _numbers(cells: Tensor, width: int) -> Tensor:
    """The numbers that these cells are."""
    return (cells[:, None] * width + torch.arange(width)).flatten()


def _tiles(length: int, grid: Grid, wraps: bool) -> list[tuple[int, Tensor]]:
    """Where each tile begins along one axis, and what it decides, number by number; at every place that sums up to 1.

    A tile goes over into the next in the middle of what they share, evenly, over `overlap` cells, or over fewer where
    these would meet the next but one.
    """
    begins, side = starts(length, grid, wraps), min(grid.tile, length)
    ends = [begin + side for begin in begins]
    around = wraps and len(begins) > 1
    before = [ends[-1] - length if around else None, *ends[:-1]]
    after = [*begins[1:], begins[0] + length if around else None]
    gaps = [following - begin for begin, following in pairwise(begins)] if around or len(begins) > 2 else []
    fade = min([grid.overlap, *gaps])
    position = (torch.arange(side * grid.outer) + 0.5) / grid.outer  # in cells
    shares: list[Tensor] = []
    for begin, end, last, following in zip(begins, ends, before, after, strict=True):
        share = torch.ones_like(position)
        if last is not None:  # shared from `begin` to `last`
            share = share * ((position - (last - begin) / 2) / fade + 0.5).clamp(0, 1)
        if following is not None:
            share = share * (((following + end) / 2 - begin - position) / fade + 0.5).clamp(0, 1)
        shares.append(share)
    return list(zip(begins, shares, strict=True))
