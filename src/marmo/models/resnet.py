"""A small residual network: a picture to features of an eighth of its side.

He et al. 2016, "Deep Residual Learning for Image Recognition"; averages in the
shortcuts as in ResNet-D (He et al. 2019).

Shapes: B batch, C channels, H W height and width.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d

STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Three levels of `depth` blocks; each halves the picture."""

    widths: tuple[int, int, int]
    depth: int = 2

    @property
    def out_channels(self) -> int:
        return self.widths[-1]


class ResNet(nn.Module):
    """One convolution, then blocks.  Its batch norms know `train()` from `eval()`."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        self.conv = Conv2d(3, first, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.blocks = nn.Sequential(*(Block(first, first, 1) for _ in range(config.depth)))
        for channels, width in pairwise(config.widths):
            self.blocks.append(Block(channels, width, 2))
            self.blocks.extend(Block(width, width, 1) for _ in range(config.depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 H W -> B C H/8 W/8."""
        x = F.relu(self.norm(self.conv(x)))                                           # B C H/2 W/2
        return self.blocks(x)


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
