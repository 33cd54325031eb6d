"""Latents and pictures made larger by rules without weights.

A1111's names of the rules for latents stand in `files/infotext.py`; they are torch's own.

Shapes: B pictures, C channels, H W height and width.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.nn.engine import Wrap
from marmo.pipelines.pixels import to_pictures, to_tensor
from marmo.request_parts import Enlarger

Mode = Literal["nearest", "bilinear", "bicubic", "area"]
Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""B C H W and a size -> the same of that size."""


class Rule(NamedTuple):
    """torch's interpolation."""

    mode: Mode
    antialias: bool = False


RULES: dict[Enlarger, Rule] = {
    "latent-nearest": Rule("nearest"),
    "latent-bilinear": Rule("bilinear"),
    "latent-bilinear-antialiased": Rule("bilinear", True),
    "latent-bicubic": Rule("bicubic"),
    "latent-bicubic-antialiased": Rule("bicubic", True),
    "latent-area": Rule("area"),
}


def enlarge_latents(latents: Tensor, height: int, width: int, rule: Rule, wrap: Wrap) -> Tensor:
    """B C H W -> B C of another size that covers the wanted one, its middle cut out."""
    high, wide = _cover(latents.shape[2:], height, width)

    def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size, mode=rule.mode, antialias=rule.antialias)

    return middle(_surrounded(resize, latents, (high, wide), wrap), height, width)


def enlarge_pixels(pixels: Tensor, height: int, width: int, wrap: Wrap) -> Tensor:
    """B 3 H W in [-1, 1] -> the same with Lanczos' kernel, as pictures of 8 bits, which the kernel needs."""
    high, wide = _cover(pixels.shape[2:], height, width)

    def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.cat([to_tensor(picture, size[1], size[0]) for picture in to_pictures(x)]).to(x.device)

    return middle(_surrounded(resize, pixels, (high, wide), wrap), height, width)


def middle(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of B C H W, of this size; of an odd rest, the larger half is cut off at the right and bottom."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def _cover(size: torch.Size, height: int, width: int) -> tuple[int, int]:
    """The smallest size of the same proportions that is as high and as wide as this."""
    if height * size[1] >= width * size[0]:
        return height, max(round(height * size[1] / size[0]), width)
    return max(round(width * size[0] / size[1]), height), width


def _surrounded(resize: Resize, x: Tensor, size: tuple[int, int], wrap: Wrap) -> Tensor:
    """x of another size; along the axes that wrap it is laid beside itself first, so that its edges fit afterwards."""
    times = 1 + 2 * wrap.height, 1 + 2 * wrap.width
    large = resize(x.repeat(1, 1, *times), (times[0] * size[0], times[1] * size[1]))
    return middle(large, *size)
