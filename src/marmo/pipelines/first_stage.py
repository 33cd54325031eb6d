"""Pictures to latents and back, in tiles where the whole would take too much memory.

Shapes: B batch, Z latent channels, H W height and width of the latents, F pixels per latent.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from marmo.models.vae import VAE, Moments

WHOLE = 96 * 96
"""Latents (768 x 768 pixels) up to which the autoencoder works in one piece."""
TILE = 64
OVERLAP = 16


def encode(vae: VAE, pixels: Tensor) -> Moments:
    """Pixels B 3 FH FW in [-1, 1] -> the distribution of scaled latents, float32."""
    factor, scale = vae.config.factor, vae.config.latent_scale

    def moments(part: Tensor) -> Tensor:
        return torch.cat(vae.encode(part.to(_dtype(vae))), dim=1).float()

    mean, logvar = _tiled(moments, pixels, inner=factor, outer=1).chunk(2, dim=1)
    return Moments(mean * scale, logvar + 2 * torch.tensor(scale).log().item())


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Scaled latents B Z H W -> pixels B 3 FH FW in [-1, 1], float32."""

    def pixels(part: Tensor) -> Tensor:
        return vae.decode((part / vae.config.latent_scale).to(_dtype(vae))).float()

    return _tiled(pixels, latents, inner=1, outer=vae.config.factor).clamp(-1, 1)


def _tiled(function: Callable[[Tensor], Tensor], x: Tensor, inner: int, outer: int) -> Tensor:
    """`function` of x, tile by tile where x is large, the seams blended.

    A latent is `inner` pixels of x and `outer` pixels of the result wide.
    """
    height, width = x.shape[2] // inner, x.shape[3] // inner
    if height * width <= WHOLE:
        return function(x)
    total = weights = None
    for top in _starts(height):
        for left in _starts(width):
            part = function(x[:, :, top * inner : (top + TILE) * inner, left * inner : (left + TILE) * inner])
            if total is None or weights is None:
                total = part.new_zeros(part.shape[0], part.shape[1], height * outer, width * outer)
                weights = part.new_zeros(height * outer, width * outer)
            ramp = _ramp(part.shape[2], outer)[:, None] * _ramp(part.shape[3], outer)[None, :]
            place = slice(top * outer, top * outer + part.shape[2]), slice(left * outer, left * outer + part.shape[3])
            total[:, :, *place] += part * ramp.to(part)
            weights[place] += ramp.to(part)
    assert total is not None and weights is not None
    return total / weights


def _starts(length: int) -> list[int]:
    """Where the tiles begin: at most TILE - OVERLAP apart, the last one flush with the end."""
    last = max(length - TILE, 0)
    return [*range(0, last, TILE - OVERLAP), last]


def _ramp(length: int, outer: int) -> Tensor:
    """A tile's weight along one axis: rising and falling over the overlap, never 0."""
    distance = torch.arange(length, dtype=torch.float32) + 0.5
    return (torch.minimum(distance, length - distance) / (OVERLAP * outer)).clamp(max=1)


def _dtype(vae: VAE) -> torch.dtype:
    return vae.from_latents.weight.dtype
