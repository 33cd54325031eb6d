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
TILE = 64
OVERLAP = 16
SMALL_TILE = 32
"""Where memory is short: a quarter of a tile's, for more seams."""
FLAT = Wrap()


def encode(vae: VAE, pixels: Tensor, wrap: Wrap = FLAT) -> Moments:
    """Pixels B 3 FH FW in [-1, 1] -> the distribution of their scaled latents, float32."""

    def moments(part: Tensor, around: Wrap) -> Tensor:
        with wrapped(vae, around):
            return torch.cat(vae.encode(part.to(_dtype(vae))), dim=1).float()

    config = vae.config
    grid = Grid(WHOLE, TILE, OVERLAP, inner=config.factor, outer=1)
    mean, logvar = in_tiles(moments, pixels, 2 * config.latent_channels, grid, wrap).chunk(2, dim=1)
    return Moments(mean * config.latent_scale, logvar + 2 * math.log(config.latent_scale))


def decode(vae: VAE, latents: Tensor, wrap: Wrap = FLAT, small: bool = False) -> Tensor:
    """Scaled latents B Z H W -> pixels B 3 FH FW in [-1, 1], float32.

    Args:
        small: whether to take small tiles, whatever the size.
    """

    def pixels(part: Tensor, around: Wrap) -> Tensor:
        with wrapped(vae, around):
            return vae.decode((part / vae.config.latent_scale).to(_dtype(vae))).float()

    whole, tile = (0, SMALL_TILE) if small else (WHOLE, TILE)
    grid = Grid(whole, tile, OVERLAP, inner=1, outer=vae.config.factor)
    return in_tiles(pixels, latents, 3, grid, wrap).clamp(-1, 1)


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
