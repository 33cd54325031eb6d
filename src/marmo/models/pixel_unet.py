"""The U-Net of pixel diffusion: residual blocks that hear the time, attention at some sizes, and nothing else to hear.

Ho et al. 2020, appendix B; the shape is Ronneberger et al.'s (2015), attention as in Wang et al. 2018.

Shapes: B batch, C channels of a level, H W height and width of a level, T = H W tokens, E width of the time embedding.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.attention import Attention
from marmo.nn.blocks import ResBlock, Upsample
from marmo.nn.embed import sinusoidal, sinusoidal_2020
from marmo.nn.engine import Conv2d, GroupNorm, Linear, pad

Convention = Literal["ho", "diffusers"]
"""Whose details: those of Ho et al.'s program, or those that diffusers has unless it is told otherwise.  They differ in
the order of the sinusoids, in the pixel from which halving begins to count, and in the norms' epsilon."""


@dataclass(frozen=True, kw_only=True)
class PixelUNetConfig:
    """One entry per level, from the finest to the coarsest, in `channels` and `attends`."""

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 256, 256)
    attends: tuple[bool, ...] = (False, True, False, False)
    num_res_blocks: int = 2
    num_groups: int = 32
    head_width: int | None = None         # of attention; None is one head, as wide as the level
    dropout: float = 0.0                  # in training
    convention: Convention = "ho"
    side: int = 32                        # pixels of the pictures that it is for; other multiples of `factor` work

    @property
    def time_width(self) -> int:
        """Of the time embedding."""
        return 4 * self.channels[0]

    @property
    def factor(self) -> int:
        """Pixels along a side of a picture for each place on the coarsest level."""
        return 2 ** (len(self.channels) - 1)

    @property
    def eps(self) -> float:
        """Of every norm."""
        return 1e-6 if self.convention == "ho" else 1e-5


CIFAR = PixelUNetConfig(dropout=0.1)
DIGITS = PixelUNetConfig(
    in_channels=1, out_channels=1, channels=(32, 64), attends=(False, True), num_groups=8, side=8
)
PIXEL_TOY = replace(CIFAR, channels=(16, 32), attends=(False, True), num_res_blocks=1, num_groups=8, dropout=0.0)


class PixelUNet(nn.Module):
    """Predicts eps, v or x0 from noisy pixels; which of them is not its business."""

    def __init__(self, config: PixelUNetConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels[0]
        self.time_in = Linear(first, config.time_width)
        self.time_out = Linear(config.time_width, config.time_width)
        self.conv_in = Conv2d(config.in_channels, first, 3, padding=1)
        self.down = nn.ModuleList(DownLevel(config, level) for level in range(len(config.channels)))
        self.mid = Middle(config)
        skips = _skip_channels(config)
        levels = reversed(range(len(config.channels)))
        self.up = nn.ModuleList(UpLevel(config, level, skips) for level in levels)        # in the order of use
        self.norm_out = GroupNorm(config.num_groups, first, config.eps)
        self.conv_out = Conv2d(first, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x B C H W, t B (0 to T - 1, fractions allowed) -> B C' H W."""
        code = sinusoidal_2020 if self.config.convention == "ho" else sinusoidal
        time = self.time_in(code(t, self.config.channels[0]).to(x.dtype))             # B E
        time = F.silu(self.time_out(F.silu(time)))
        x = self.conv_in(x)                                                           # B C0 H W
        skips = [x]
        for level in self.down:
            x = level(x, time, skips)                                                 # B Ci H/2^i W/2^i
        x = self.mid(x, time)
        for level in self.up:
            x = level(x, time, skips)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))                  # B C' H W


class Stage(nn.Module):
    """A residual block and, where the level attends, attention."""

    def __init__(self, config: PixelUNetConfig, channels: int, level: int) -> None:
        super().__init__()
        width = config.channels[level]
        self.res = _block(config, channels, width)
        self.attention = PixelAttention(config, width) if config.attends[level] else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.res(x, time)
        return x if self.attention is None else self.attention(x)


class DownLevel(nn.Module):
    """Stages at one size, each leaving a skip; then, unless the level is the coarsest, half the size."""

    def __init__(self, config: PixelUNetConfig, level: int) -> None:
        super().__init__()
        width, before = config.channels[level], config.channels[max(level - 1, 0)]
        inputs = [before] + [width] * (config.num_res_blocks - 1)
        self.stages = nn.ModuleList(Stage(config, channels, level) for channels in inputs)
        self.padding = (0, 1, 0, 1) if config.convention == "ho" else (1, 1, 1, 1)    # left, right, top, bottom
        last = level == len(config.channels) - 1
        self.shrink = None if last else Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(x, time)
            skips.append(x)
        if self.shrink is not None:
            x = self.shrink(pad(x, *self.padding, self.shrink.wrap))
            skips.append(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest size."""

    def __init__(self, config: PixelUNetConfig) -> None:
        super().__init__()
        width = config.channels[-1]
        self.res1 = _block(config, width, width)
        self.attention = PixelAttention(config, width)
        self.res2 = _block(config, width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.res2(self.attention(self.res1(x, time)), time)


class UpLevel(nn.Module):
    """Stages at one size, each eating a skip; then, unless the level is the finest, twice the size."""

    def __init__(self, config: PixelUNetConfig, level: int, skips: list[int]) -> None:
        super().__init__()
        width, below = config.channels[level], config.channels[min(level + 1, len(config.channels) - 1)]
        inputs = [below] + [width] * config.num_res_blocks
        self.stages = nn.ModuleList(Stage(config, channels + skips.pop(), level) for channels in inputs)
        self.grow = Upsample(width) if level else None

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(torch.cat([x, skips.pop()], dim=1), time)
        return x if self.grow is None else self.grow(x)


class PixelAttention(nn.Module):
    """Every place a token: normalise, attend to each other, add."""

    def __init__(self, config: PixelUNetConfig, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm(config.num_groups, width, config.eps)
        heads = 1 if config.head_width is None else width // config.head_width
        self.attention = Attention(width, heads, qkv_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C H W."""
        tokens = self.attention(rearrange(self.norm(x), "b c h w -> b (h w) c"))      # B T C
        return x + rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


def _block(config: PixelUNetConfig, channels: int, width: int) -> ResBlock:
    return ResBlock(channels, width, config.num_groups, config.eps, config.time_width, config.dropout)


def _skip_channels(config: PixelUNetConfig) -> list[int]:
    """The channels of the skips in the order in which the way down leaves them."""
    skips = [config.channels[0]]
    for level, width in enumerate(config.channels):
        shrinks = level < len(config.channels) - 1
        skips += [width] * (config.num_res_blocks + shrinks)
    return skips
