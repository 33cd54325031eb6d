"""ESRGAN's network, which enlarges pictures: densely connected convolutions, residuals within residuals.

Wang et al. 2018 (ESRGAN), section 3.1; Wang et al. 2021 (Real-ESRGAN), section 3.3, for the folding of pixels.

Shapes: B batch, C channels, H W height and width of the small picture, G channels that a convolution adds.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d

SHARE = 0.2
"""What a block adds to its input, as a share (ESRGAN, section 3.1: residual scaling)."""


@dataclass(frozen=True, kw_only=True)
class RRDBConfig:
    """Real-ESRGAN enlarges by less than 4 with the same doublings, from a picture that is folded first."""

    channels: int = 64
    growth: int = 32                      # G
    num_blocks: int = 23
    num_doublings: int = 2
    fold: int = 1                         # a square of this side becomes the channels of one pixel

    @property
    def scale(self) -> int:
        """Pixels of the result for each of the picture, along each axis."""
        return 2**self.num_doublings // self.fold


ESRGAN_X4 = RRDBConfig()
ESRGAN_X2 = RRDBConfig(fold=2)            # RealESRGAN_x2plus
ESRGAN_ANIME = RRDBConfig(num_blocks=6)   # RealESRGAN_x4plus_anime_6B


class RRDB(nn.Module):
    """Colours in [0, 1] to a larger picture's, about [0, 1]."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_in = Conv2d(3 * config.fold**2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.conv_body = Conv2d(channels, channels, 3, padding=1)
        self.up = nn.ModuleList(Conv2d(channels, channels, 3, padding=1) for _ in range(config.num_doublings))
        self.conv_last = Conv2d(channels, channels, 3, padding=1)
        self.conv_out = Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """B 3 H W -> B 3 sH sW; H and W are multiples of `fold`."""
        x = first = self.conv_in(F.pixel_unshuffle(x, self.config.fold))              # B C H/f W/f
        for block in self.blocks:
            x = block(x)
        x = first + self.conv_body(x)
        for conv in self.up:
            x = _leaky(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))      # twice as high and wide
        return self.conv_out(_leaky(self.conv_last(x)))


class Block(nn.Module):
    """Three dense blocks, and a share of what they made added to what came in."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.dense = nn.ModuleList(DenseBlock(config.channels, config.growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C H W."""
        h = x
        for dense in self.dense:
            h = dense(h)
        return x + SHARE * h


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it (Huang et al. 2017)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        outputs = [growth] * 4 + [channels]
        self.convs = nn.ModuleList(
            Conv2d(channels + index * growth, width, 3, padding=1) for index, width in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C H W."""
        *inner, last = self.convs
        seen = x
        for conv in inner:
            seen = torch.cat([seen, _leaky(conv(seen))], dim=1)                       # B C+iG H W
        return x + SHARE * last(seen)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)
