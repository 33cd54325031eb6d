"""A small residual network: a picture to features of an eighth of its side.

He et al. 2016, "Deep Residual Learning for Image Recognition", with averages in the shortcuts (ResNet-D, 2019)
and patches at the beginning (Liu et al. 2022, ConvNeXt): most of the time would go into the first levels.

Shapes: B batch, C channels, H W height and width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d

PATCH = 4                                 # pixels along a side


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Two levels of `depth` blocks, the second with half the side."""

    widths: tuple[int, int]
    depth: int = 2

    @property
    def out_channels(self) -> int:
        return self.widths[-1]


class ResNet(nn.Module):
    """Patches, then blocks.  Its batch norms know `train()` from `eval()`."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        first, second = config.widths
        self.patches = Conv2d(3, first, PATCH, stride=PATCH, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.level1 = nn.Sequential(*(Block(first, first, 1) for _ in range(config.depth)))
        others = (Block(second, second, 1) for _ in range(config.depth - 1))
        self.level2 = nn.Sequential(Block(first, second, 2), *others)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 H W -> B C H/8 W/8."""
        return self.levels(x)[-1]

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels B 3 H W -> what it makes of them on the way: patches, B C H/4 W/4, B C' H/8 W/8."""
        patches = F.relu(self.norm(self.patches(x)))                                  # B C H/4 W/4
        fine = self.level1(patches)                                                   # B C H/4 W/4
        return patches, fine, self.level2(fine)                                       # B C' H/8 W/8


class Block(nn.Module):
    """3x3, 3x3, plus a shortcut, which is averaged over the stride."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if (channels, stride) == (width, 1) else _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C' H' W'."""
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(h)))


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    conv = Conv2d(channels, width, 1, bias=False)
    return nn.Sequential(nn.AvgPool2d(stride), conv, nn.BatchNorm2d(width))
