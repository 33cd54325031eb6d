"""A small plain network: a picture to features of an eighth of its side.

Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", with batch norms:
3x3 convolutions one after the other, and the largest of every 2x2 in between.

Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """Four levels, each of half the side of the one before; `depths` counts their convolutions."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int] = (1, 1, 2, 2)

    @property
    def out_channels(self) -> int:
        return self.widths[-1]


class VGG(nn.Module):
    """Convolutions, halved three times.  Its batch norms know `train()` from `eval()`."""

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        self.config = config
        before = (3, *config.widths[:-1])
        sizes = zip(before, config.widths, config.depths, strict=True)
        self.levels = nn.ModuleList(nn.Sequential(*_convolutions(*size)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 H W -> B C H/8 W/8."""
        first, *others = self.levels
        x = first(x)                                                                  # B C H W
        for level in others:
            x = level(F.max_pool2d(x, 2))                                             # B C' H/2 W/2, ...
        return x


def _convolutions(channels: int, width: int, depth: int) -> Iterator[nn.Module]:
    for _ in range(depth):
        yield from (Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        channels = width
