"""Pictures made worse, and pictures of nothing: what a judge of pictures must bear, and what must not fool it.

All take and give pictures B 3 H W in [-1, 1]; what is random comes from torch's generator.
"""

from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

PATCH = 8
"""Pixels along the side of what a squeezed picture keeps few numbers of."""


def blurred(pixels: Tensor, sigma: float = 1.0) -> Tensor:
    """A Gaussian of so many pixels over every picture."""
    reach = max(1, round(3 * sigma))
    x = torch.arange(-reach, reach + 1, device=pixels.device)
    weights = (-0.5 * (x / sigma) ** 2).exp()
    row = (weights / weights.sum()).repeat(3, 1, 1, 1)  # 3 1 1 taps
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, row, groups=3), row.mT, groups=3)


def noisy(pixels: Tensor, amount: float = 0.1) -> Tensor:
    """Gaussian noise with this standard deviation, of a range of 2."""
    return (pixels + amount * torch.randn_like(pixels)).clamp(-1, 1)


def squeezed(pixels: Tensor, kept: int = 5) -> Tensor:
    """Of every patch of 8 x 8 only the `kept` slowest waves each way, as if it had passed a narrow autoencoder.

    H and W must be multiples of 8.  The waves are those of the cosine transform that JPEG uses (ITU-T T.81, A.3.3).
    """
    waves = _waves().to(pixels.device)
    order = torch.arange(PATCH, device=pixels.device)
    keep = (order[:, None] + order < kept).float()
    patches = rearrange(pixels, "b c (h i) (w j) -> b c h w i j", i=PATCH, j=PATCH)
    patches = waves.T @ (waves @ patches @ waves.T * keep) @ waves
    return rearrange(patches, "b c h w i j -> b c (h i) (w j)").clamp(-1, 1)


def disturbed(pixels: Tensor) -> Tensor:
    """Every picture as it is, blurred, noisy or squeezed, by chance; then a little brighter or darker."""
    count = len(pixels)
    kind = torch.randint(0, 6, (count,))
    result = pixels.clone()
    for number, change in enumerate((_any_blur, _any_noise, _any_squeeze)):
        rows = (kind == number).nonzero()[:, 0].to(pixels.device)
        if len(rows):
            result[rows] = change(pixels[rows])
    gain = 1 + 0.05 * torch.randn(count, 1, 1, 1, device=pixels.device)
    shift = 0.03 * torch.randn(count, 1, 1, 1, device=pixels.device)
    return (gain * result + shift).clamp(-1, 1)


def blobs(count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Stains of one colour on another, clouds of colour, plain noise: a third each."""
    pictures = [(_stain, _cloud, _snow)[index % 3](size) for index in range(count)]
    return torch.stack(pictures).to(device) if pictures else torch.empty(0, 3, size, size, device=device)


def shuffled_tiles(pixels: Tensor, tiles: int = 4) -> Tensor:
    """Every picture cut into `tiles` x `tiles` parts that stand in another order: its colours without its forms."""
    parts = rearrange(pixels, "b c (h i) (w j) -> (h w) b c i j", h=tiles, w=tiles)
    parts = parts[torch.randperm(len(parts), device=pixels.device)]
    return rearrange(parts, "(h w) b c i j -> b c (h i) (w j)", h=tiles)


def _any_blur(pixels: Tensor) -> Tensor:
    return blurred(pixels, 0.4 + 1.4 * float(torch.rand(())))


def _any_noise(pixels: Tensor) -> Tensor:
    return noisy(pixels, 0.25 * float(torch.rand(())))


def _any_squeeze(pixels: Tensor) -> Tensor:
    return squeezed(pixels, int(torch.randint(3, 7, ())))


def _stain(size: int) -> Tensor:
    detail = int(torch.randint(3, 8, ()))
    height = _smooth(1, detail, size)
    edge = ((height - height.mean() - 0.3 * torch.randn(())) * size / 4).sigmoid()  # 1 S S
    inside, outside = (torch.rand(2, 3, 1, 1) * 2 - 1).unbind(0)
    return torch.lerp(outside, inside, edge)


def _cloud(size: int) -> Tensor:
    return _smooth(3, int(torch.randint(2, 24, ())), size).clamp(-1, 1)


def _snow(size: int) -> Tensor:
    return (torch.rand(3, 1, 1) * 2 - 1 + torch.rand(()) * torch.randn(3, size, size)).clamp(-1, 1)


def _smooth(channels: int, detail: int, size: int) -> Tensor:
    """Noise with about `detail` hills along a side.  -> `channels` `size` `size`"""
    coarse = torch.randn(1, channels, detail, detail)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[0]


@cache
def _waves() -> Tensor:
    """The orthonormal cosine transform of 8 numbers.  8 8, waves by place"""
    n = torch.arange(PATCH, dtype=torch.float64)
    waves = torch.cos(torch.pi / PATCH * (n + 0.5) * n[:, None]) * (2 / PATCH) ** 0.5
    waves[0] *= 0.5**0.5
    return waves.float()
