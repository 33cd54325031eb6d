"""CLIP's ResNet: a picture to one vector, by convolutions and one attention at the end.

He et al. 2016, changed as in Radford et al. 2021, section 2.4: a stem of three convolutions (ResNet-D, He et al. 2019),
strides by averaging (Zhang 2019) and attention in place of the last average.

Shapes: B batch, C channels, H W height and width, N heads, D width of a head, E width of the embedding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.engine import Conv2d, Linear, attend


@dataclass(frozen=True, kw_only=True)
class ClipResNetConfig:
    """Four levels of bottlenecks of `width`, 2, 4 and 8 times `width`.  Pictures are squares of `image_size` pixels."""

    width: int
    depths: tuple[int, int, int, int]     # bottlenecks per level
    embed_width: int                      # of the space that text and pictures share
    image_size: int = 224                 # a multiple of 32

    @property
    def out_width(self) -> int:
        """Channels after the last level."""
        return 32 * self.width

    @property
    def num_heads(self) -> int:
        """Heads of 64 channels in the attention at the end; one, if there are fewer."""
        return max(self.out_width // 64, 1)


RN50_IMAGE = ClipResNetConfig(width=64, depths=(3, 4, 6, 3), embed_width=1024)


class ClipResNet(nn.Module):
    """Stem, four levels, attention pooling.  Its batch norms know `train()` from `eval()`."""

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config.width)
        self.levels = nn.ModuleList(_level(config, index) for index in range(len(config.depths)))
        self.pool = AttentionPool(config)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 S S as `clip.preprocess` makes them -> B E, of any length."""
        x = self.stem(x)                                                              # B C S/4 S/4
        for level in self.levels:
            x = level(x)
        return self.pool(x)                                                           # B E


class Stem(nn.Module):
    """Three convolutions, the first with a stride, and an average: a quarter of the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width // 2)
        self.conv2 = Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width // 2)
        self.conv3 = Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """B 3 H W -> B C H/4 W/4."""
        x = F.relu(self.norm1(self.conv1(x)))                                         # B C/2 H/2 W/2
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))                                         # B C H/2 W/2
        return F.avg_pool2d(x, 2)                                                     # B C H/4 W/4


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3, average over the stride, 1x1 up to 4 `width`; plus a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shrink = nn.AvgPool2d(stride)
        self.conv3 = Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = nn.Identity() if channels == 4 * width else _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C' H/stride W/stride."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        h = self.norm3(self.conv3(self.shrink(h)))                                    # B C' H/stride W/stride
        return F.relu(h + self.shortcut(x))


class AttentionPool(nn.Module):
    """Attention with a single query, the mean of all pixels; the mean is also among the keys and values."""

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        width, num_pixels = config.out_width, (config.image_size // 32) ** 2
        self.num_heads = config.num_heads
        self.positions = nn.Parameter(torch.empty(1 + num_pixels, width))
        self.q = Linear(width, width)
        self.k = Linear(width, width)
        self.v = Linear(width, width)
        self.out = Linear(width, config.embed_width)
        nn.init.normal_(self.positions, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B E."""
        x = rearrange(x, "b c h w -> b (h w) c")                                      # B HW C
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positions       # B 1+HW C
        x = attend(self._heads(self.q(x[:, :1])), self._heads(self.k(x)), self._heads(self.v(x)))
        return self.out(rearrange(x, "b n 1 d -> b (n d)"))                           # B E

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (n d) -> b n t d", n=self.num_heads)


def _level(config: ClipResNetConfig, index: int) -> nn.Sequential:
    """The bottlenecks of one size; the first of them halves it, except on the first level."""
    width = config.width * 2**index
    before = 2 * width if index else config.width
    first = Bottleneck(before, width, stride=2 if index else 1)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, stride=1) for _ in range(config.depths[index] - 1)))


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = Conv2d(channels, out_channels, 1, bias=False)
    return nn.Sequential(nn.AvgPool2d(stride), conv, nn.BatchNorm2d(out_channels))
