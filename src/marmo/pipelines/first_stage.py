"""Pictures to latents and back, in tiles where the whole would take too much memory.

Shapes: B batch, C channels, Z latent channels, H W height and width of the latents, F pixels per latent.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from marmo.models.vae import VAE, Moments
from marmo.nn.engine import Wrap, wrapped
from marmo.pipelines.tiles import Grid, in_tiles

WHOLE = 96 * 96
"""Latents (768 x 768 pixels) up to which the autoencoder works in one piece."""
WIDENED = "the autoencoder overflowed in half precision, so the picture was decoded again in float32"
IN_SMALL_TILES = "memory ran out, so the picture was decoded in small tiles"
TILE, OVERLAP = 64, 16
SMALL_TILE, SMALL_OVERLAP = 32, 10
"""Where memory is short: a quarter of a tile's, for more seams."""
FLAT = Wrap()


def encode(vae: VAE, pixels: Tensor, wrap: Wrap = FLAT, small: bool = False) -> Moments:
    """Pixels B 3 FH FW in [-1, 1] -> the distribution of their scaled latents, float32.

    Args:
        wrap: along which axes the picture's edges meet.
        small: whether to take small tiles, whatever the size.
    """

    def moments(part: Tensor, around: Wrap) -> Tensor:
        with wrapped(vae, around):
            return torch.cat(vae.encode(part.to(_dtype(vae))), dim=1).float()

    config = vae.config
    grid = tiling(small, config.factor, 1)
    mean, logvar = in_tiles(moments, pixels, 2 * config.latent_channels, grid, wrap).chunk(2, dim=1)
    return Moments(mean * config.latent_scale, logvar + 2 * math.log(config.latent_scale))


def decode(vae: VAE, latents: Tensor, wrap: Wrap = FLAT, small: bool = False) -> Tensor:
    """Scaled latents B Z H W -> pixels B 3 FH FW in [-1, 1], float32.

    Args:
        wrap: along which axes the picture's edges meet.
        small: whether to take small tiles, whatever the size.
    """

    def pixels(part: Tensor, around: Wrap) -> Tensor:
        with wrapped(vae, around):
            return vae.decode((part / vae.config.latent_scale).to(_dtype(vae))).float()

    return in_tiles(pixels, latents, 3, tiling(small, 1, vae.config.factor), wrap).clamp(-1, 1)


def tiling(small: bool, inner: int = 1, outer: int = 1) -> Grid:
    """The tiles, in latents, where memory is short or not."""
    if small:
        return Grid(SMALL_TILE**2, SMALL_TILE, SMALL_OVERLAP, inner, outer)
    return Grid(WHOLE, TILE, OVERLAP, inner, outer)


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


def _dtype(vae: VAE) -> torch.dtype:
    return vae.from_latents.weight.dtype
