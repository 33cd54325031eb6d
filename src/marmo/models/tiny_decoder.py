"""A decoder small enough to run at every step: TAESD's (madebyollin/taesd), for previews of x0.

Shapes: B batch, C channels, H W height and width of the latents.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d


@dataclass(frozen=True, kw_only=True)
class TinyDecoderConfig:
    """Three blocks per level, one at full size."""

    latent_channels: int
    channels: int = 64
    num_upsamples: int = 3
    num_blocks: int = 3                   # before each doubling


TAESD = TinyDecoderConfig(latent_channels=4)


class TinyDecoder(nn.Module):
    """Scaled latents (about unit variance) to pixels, eight times as wide and high."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_in = Conv2d(config.latent_channels, config.channels, 3, padding=1)
        self.up = nn.ModuleList(TinyLevel(config) for _ in range(config.num_upsamples))
        self.last = TinyBlock(config.channels)
        self.conv_out = Conv2d(config.channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """B Z H W -> B 3 8H 8W in about [-1, 1]."""
        x = F.relu(self.conv_in(3 * torch.tanh(z / 3)))                               # B C H W
        for level in self.up:
            x = level(x)
        return 2 * self.conv_out(self.last(x)) - 1                                    # the network itself gives [0, 1]


class TinyLevel(nn.Module):
    """Blocks, nearest-neighbour doubling, a convolution without bias."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TinyBlock(config.channels) for _ in range(config.num_blocks))
        self.conv = Conv2d(config.channels, config.channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C 2H 2W."""
        for block in self.blocks:
            x = block(x)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class TinyBlock(nn.Module):
    """Three convolutions and a sum, ReLU between and after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)
        self.conv3 = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C H W."""
        h = F.relu(self.conv1(x))
        h = F.relu(self.conv2(h))
        return F.relu(self.conv3(h) + x)
