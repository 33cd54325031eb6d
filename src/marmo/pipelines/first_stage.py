"""Pictures to latents and back, in tiles where the whole would take too much memory.

Shapes: B batch, C channels, Z latent channels, H W height and width of the latents, F pixels per latent.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor

from marmo.models.vae import VAE, Moments

WHOLE = 96 * 96
"""Latents (768 x 768 pixels) up to which the autoencoder works in one piece."""
WIDENED = "the autoencoder overflowed in half precision, so the picture was decoded again in float32"
IN_SMALL_TILES = "memory ran out, so the picture was decoded in small tiles"
TILE = 64
OVERLAP = 16
SMALL_TILE = 32
"""Where memory is short: a quarter of a tile's, for more seams."""


def encode(vae: VAE, pixels: Tensor) -> Moments:
    """Pixels B 3 FH FW in [-1, 1] -> the distribution of their scaled latents, float32."""

    def moments(part: Tensor) -> Tensor:
        return torch.cat(vae.encode(part.to(_dtype(vae))), dim=1).float()

    config = vae.config
    both = _in_tiles(moments, pixels, 2 * config.latent_channels, WHOLE, TILE, inner=config.factor, outer=1)
    mean, logvar = both.chunk(2, dim=1)
    return Moments(mean * config.latent_scale, logvar + 2 * math.log(config.latent_scale))


def decode(vae: VAE, latents: Tensor, small: bool = False) -> Tensor:
    """Scaled latents B Z H W -> pixels B 3 FH FW in [-1, 1], float32.

    Args:
        small: whether to take small tiles, whatever the size.
    """

    def pixels(part: Tensor) -> Tensor:
        return vae.decode((part / vae.config.latent_scale).to(_dtype(vae))).float()

    tiles = (0, SMALL_TILE) if small else (WHOLE, TILE)
    return _in_tiles(pixels, latents, 3, *tiles, inner=1, outer=vae.config.factor).clamp(-1, 1)


@contextmanager
def widened(vae: VAE) -> Generator[None]:
    """The autoencoder in float32 for a while; what it had comes back to the bit."""
    narrow = [(parameter, parameter.data) for parameter in vae.parameters()]
    vae.float()
    try:
        yield
    finally:
        for parameter, data in narrow:
            parameter.data = data


def _in_tiles(
    function: Callable[[Tensor], Tensor], x: Tensor, channels: int, most: int, side: int, inner: int, outer: int
) -> Tensor:
    """`function(x)`, tile by tile where x has more than `most` latents, the seams blended.

    A latent is `inner` numbers of x and `outer` numbers of the result wide; the result has `channels`.
    """
    height, width = x.shape[2] // inner, x.shape[3] // inner
    if height * width <= most:
        return function(x)
    total = x.new_zeros(x.shape[0], channels, height * outer, width * outer)
    weight = x.new_zeros(height * outer, width * outer)
    for top, left in product(_starts(height, side), _starts(width, side)):
        tile = function(x[:, :, *_window(top, left, side, inner)])
        ramp = (_ramp(tile.shape[2], outer)[:, None] * _ramp(tile.shape[3], outer)).to(x.device)
        rows, columns = _window(top, left, side, outer)
        total[:, :, rows, columns] += tile * ramp
        weight[rows, columns] += ramp
    return total / weight


def _window(top: int, left: int, side: int, scale: int) -> tuple[slice, slice]:
    """The rows and columns of the tile that begins at these latents."""
    return slice(top * scale, (top + side) * scale), slice(left * scale, (left + side) * scale)


def _starts(length: int, side: int) -> list[int]:
    """Where the tiles begin: OVERLAP less than their side apart, the last one flush with the end."""
    last = max(length - side, 0)
    return [*range(0, last, side - OVERLAP), last]


def _ramp(length: int, outer: int) -> Tensor:
    """A tile's weight along one axis: rising and falling over the overlap, never 0."""
    distance = torch.arange(length) + 0.5
    return (torch.minimum(distance, length - distance) / (OVERLAP * outer)).clamp(max=1)


def _dtype(vae: VAE) -> torch.dtype:
    return vae.from_latents.weight.dtype
