"""A function of pictures applied piece by piece, so that memory does not grow with the picture; the seams are blended.

Shapes: B batch, C channels, H W height and width in cells; a cell is `inner` numbers of the input and `outer` of the
result wide (a latent is 1 number before the decoder and 8 behind it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

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
    """Cells that neighbours share."""
    inner: int
    outer: int


Piece = Callable[[Tensor, Wrap], Tensor]
"""What is done with a piece, and along which axes its own edges meet."""


def in_tiles(function: Piece, x: Tensor, channels: int, grid: Grid, wrap: Wrap) -> Tensor:
    """`function(x)`, of `channels`, tile by tile where x is large.

    Along an axis that wraps, tiles go on over the edge, so that the result's edges fit as its middle does.
    """
    height, width = x.shape[2] // grid.inner, x.shape[3] // grid.inner
    if height * width <= grid.whole:
        return function(x, wrap)
    own = Wrap(wrap.height and height <= grid.tile, wrap.width and width <= grid.tile)
    total = x.new_zeros(x.shape[0], channels, height * grid.outer, width * grid.outer)
    weight = x.new_zeros(height * grid.outer, width * grid.outer)
    starts = _starts(height, grid, wrap.height), _starts(width, grid, wrap.width)
    for top, left in product(*starts):
        rows, columns = _cells(top, height, grid), _cells(left, width, grid)
        piece = function(_cut(x, rows, columns, grid.inner), own)
        ramp = (_ramp(len(rows), grid)[:, None] * _ramp(len(columns), grid)).to(x.device)
        place = _numbers(rows, grid.outer)[:, None], _numbers(columns, grid.outer)
        total[:, :, *place] += piece * ramp
        weight[place] += ramp
    return total / weight


def _starts(length: int, grid: Grid, wraps: bool) -> list[int]:
    """Where the tiles begin, `tile - overlap` apart at most; the last one flush with the end, or over the edge."""
    step = grid.tile - grid.overlap
    if wraps and length > grid.tile:
        return list(range(0, length, step))
    last = max(length - grid.tile, 0)
    return [*range(0, last, step), last]


def _cells(start: int, length: int, grid: Grid) -> Tensor:
    """The cells of the tile that begins here, which goes on over the edge."""
    return torch.arange(start, start + min(grid.tile, length)) % length


def _cut(x: Tensor, rows: Tensor, columns: Tensor, inner: int) -> Tensor:
    return x[:, :, _numbers(rows, inner)[:, None], _numbers(columns, inner)]


def _numbers(cells: Tensor, width: int) -> Tensor:
    """The numbers that these cells are."""
    return (cells[:, None] * width + torch.arange(width)).flatten()


def _ramp(cells: int, grid: Grid) -> Tensor:
    """A tile's weight along one axis: rising and falling over the overlap, never 0."""
    length = cells * grid.outer
    distance = torch.arange(length) + 0.5
    return (torch.minimum(distance, length - distance) / (grid.overlap * grid.outer)).clamp(max=1)
