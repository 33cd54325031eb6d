"""The U-Net of latent diffusion: residual blocks that hear the time, transformers that hear the prompt.

Ronneberger et al. 2015 (the shape), Ho et al. 2020 (time), Rombach et al. 2022 (cross-attention, section 3.3),
Podell et al. 2023 (SDXL: a vector beside the time, section 2.2).

Shapes: B batch, C channels of a level, H W height and width of a level, T = H W tokens, S context tokens, W width,
E width of the time embedding, V width of the vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.attention import Attention, KeysValues
from marmo.nn.blocks import ResBlock, Upsample
from marmo.nn.embed import sinusoidal
from marmo.nn.engine import Conv2d, GroupNorm, Linear

CODE_WIDTH = 256
"""Of each number in the vector that SDXL's U-Nets are told, as sinusoids, after the pooled prompt."""

Context = Sequence[KeysValues]
"""What every cross-attention needs to know of a prompt, in the order in which they ask; see `UNet.project`."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """One entry per level, from the finest to the coarsest, in `channels`, `depths` and `num_heads`."""

    in_channels: int                      # latents, plus whatever a task lays beside them
    out_channels: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]               # transformer blocks after each residual block; 0 is no attention
    num_heads: tuple[int, ...]
    context_width: int                    # of the text encoder's states
    num_res_blocks: int = 2
    num_groups: int = 32
    mid_depth: int = 1                    # transformer blocks in the middle
    vector_width: int = 0                 # of what it is told beside time and prompt; 0 is nothing
    num_labels: int = 0                   # or, instead of a vector, which of so many things
    prompt_alone: tuple[bool, ...] = ()   # whether a level's pixels attend to the prompt instead of to each other

    def attends_alone(self, level: int) -> bool:
        """To the prompt, twice in every block."""
        return bool(self.prompt_alone) and self.prompt_alone[level]

    @property
    def factor(self) -> int:
        """Pixels of the finest level per pixel of the coarsest, along each axis."""
        return 2 ** (len(self.channels) - 1)

    @property
    def time_width(self) -> int:
        """Of the time embedding."""
        return 4 * self.channels[0]


SD1 = UNetConfig(
    in_channels=4, out_channels=4, channels=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), num_heads=(8, 8, 8, 8),
    context_width=768,
)
SD2 = replace(SD1, num_heads=(5, 10, 20, 20), context_width=1024)
SDXL = UNetConfig(
    in_channels=4, out_channels=4, channels=(320, 640, 1280), depths=(0, 2, 10), num_heads=(5, 10, 20),
    context_width=2048, mid_depth=10, vector_width=1280 + 6 * 256,
)
SDXL_REFINER = UNetConfig(
    in_channels=4, out_channels=4, channels=(384, 768, 1536, 1536), depths=(0, 4, 4, 0), num_heads=(6, 12, 24, 24),
    context_width=1280, mid_depth=4, vector_width=1280 + 5 * 256,
)
SD1_INPAINT = replace(SD1, in_channels=9)                 # beside the latents: a mask, and the latents of what is kept
SD2_INPAINT = replace(SD2, in_channels=9)
SDXL_INPAINT = replace(SDXL, in_channels=9)
SD1_EDIT = replace(SD1, in_channels=8)                    # instruct-pix2pix: the latents of the picture to change
SDXL_EDIT = replace(SDXL, in_channels=8)
SD_X4 = replace(                                          # beside the latents: the small picture
    SD2, in_channels=7, channels=(256, 512, 512, 1024), depths=(0, 1, 1, 1), num_heads=(8, 8, 8, 8), num_labels=1000,
    prompt_alone=(True, True, True, False),
)

SD1_TOY = replace(SD1, channels=(32, 64), depths=(1, 0), num_heads=(8, 8), context_width=64, num_res_blocks=1)
SD2_TOY = replace(SD1_TOY, channels=(64, 128), num_heads=(1, 2))
SD_X4_TOY = replace(
    SD_X4, channels=(32, 64), depths=(0, 1), num_heads=(8, 8), context_width=64, num_res_blocks=1,
    prompt_alone=(True, False),
)
SDXL_TOY = replace(
    SDXL, channels=(64, 128), depths=(0, 2), num_heads=(1, 2), context_width=64 + 128, num_res_blocks=1, mid_depth=2,
    vector_width=128 + 6 * 256,
)
SDXL_REFINER_TOY = replace(
    SDXL_TOY, channels=(64, 128, 128), depths=(0, 2, 0), num_heads=(1, 2, 2), context_width=128, mid_depth=2,
    vector_width=128 + 5 * 256,
)


class UNet(nn.Module):
    """Predicts eps, v or x0 from noisy latents; which of them is not its business."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels[0]
        self.time_in = Linear(first, config.time_width)
        self.time_out = Linear(config.time_width, config.time_width)
        self.vector = Vector(config) if config.vector_width else Label(config) if config.num_labels else None
        self.conv_in = Conv2d(config.in_channels, first, 3, padding=1)
        self.down = nn.ModuleList(_down_levels(config))
        self.mid = Middle(config)
        self.up = nn.ModuleList(_up_levels(config))       # in the order of use: the deepest level first
        self.norm_out = GroupNorm(config.num_groups, first, eps=1e-5)
        self.conv_out = Conv2d(first, config.out_channels, 3, padding=1)

    def project(self, tokens: Tensor) -> Context:
        """The keys and values of a prompt, which stay the same at every step.  tokens B S W."""
        blocks = [block for block in self.modules() if isinstance(block, TransformerBlock)]
        return [keys_values for block in blocks for keys_values in block.project(tokens)]

    def forward(self, x: Tensor, t: Tensor, context: Context, vector: Tensor | None = None) -> Tensor:
        """x B C H W, t B (0 to 999, fractions allowed), context and vector V of the same batch or of 1 -> B C' H W.

        With labels the vector holds one number, the label.
        """
        time = self.time_in(sinusoidal(t, self.config.channels[0]).to(x.dtype))       # B E
        time = self.time_out(F.silu(time))
        if self.vector is not None:
            assert vector is not None, "this U-Net is told a vector beside the prompt"
            time = time + self.vector(vector)
        time = F.silu(time)
        asks = iter(context)                # `modules()` and this pass visit the cross-attentions in one order
        x = self.conv_in(x)                                                           # B C0 H W
        skips = [x]
        for level in self.down:
            x = level(x, time, asks, skips)                                           # B Ci H/2^i W/2^i
        x = self.mid(x, time, asks)
        for level in self.up:
            x = level(x, time, asks, skips)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))                  # B C' H W


class Vector(nn.Module):
    """What is told beside time and prompt, as something to add to the time."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.proj_in = Linear(config.vector_width, config.time_width)
        self.proj_out = Linear(config.time_width, config.time_width)

    def forward(self, vector: Tensor) -> Tensor:
        """B V -> B E."""
        vector = vector.to(self.proj_in.weight.dtype)
        return self.proj_out(F.silu(self.proj_in(vector)))                            # B E


class Label(nn.Module):
    """Which of a number of things it is told, as something to add to the time."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.num_labels, config.time_width)

    def forward(self, vector: Tensor) -> Tensor:
        """B 1, a whole number from 0 on -> B E."""
        return self.table(vector[:, 0].long())                                        # B E


class Stage(nn.Module):
    """A residual block and, where the level attends, a transformer."""

    def __init__(self, config: UNetConfig, channels: int, level: int) -> None:
        super().__init__()
        width = config.channels[level]
        self.res = ResBlock(channels, width, config.num_groups, eps=1e-5, time_width=config.time_width)
        depth = config.depths[level]
        self.transformer = SpatialTransformer(config, level, depth) if depth else None

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues]) -> Tensor:
        x = self.res(x, time)
        return x if self.transformer is None else self.transformer(x, asks)


class DownLevel(nn.Module):
    """Stages at one size, each leaving a skip; then, unless the level is the coarsest, half the size."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width, before = config.channels[level], config.channels[max(level - 1, 0)]
        inputs = [before] + [width] * (config.num_res_blocks - 1)
        self.stages = nn.ModuleList(Stage(config, channels, level) for channels in inputs)
        last = level == len(config.channels) - 1
        self.shrink = None if last else Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues], skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(x, time, asks)
            skips.append(x)
        if self.shrink is not None:
            x = self.shrink(x)
            skips.append(x)
        return x


class Middle(nn.Module):
    """Residual block, transformer, residual block at the coarsest size."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, level = config.channels[-1], len(config.channels) - 1
        self.res1 = ResBlock(width, width, config.num_groups, eps=1e-5, time_width=config.time_width)
        self.transformer = SpatialTransformer(config, level, config.mid_depth, is_middle=True)
        self.res2 = ResBlock(width, width, config.num_groups, eps=1e-5, time_width=config.time_width)

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues]) -> Tensor:
        return self.res2(self.transformer(self.res1(x, time), asks), time)


class UpLevel(nn.Module):
    """Stages at one size, each eating a skip; then, unless the level is the finest, twice the size."""

    def __init__(self, config: UNetConfig, level: int, skips: list[int]) -> None:
        super().__init__()
        width, below = config.channels[level], config.channels[min(level + 1, len(config.channels) - 1)]
        inputs = [below] + [width] * config.num_res_blocks
        self.stages = nn.ModuleList(Stage(config, channels + skips.pop(), level) for channels in inputs)
        self.grow = Upsample(width) if level else None

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues], skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(torch.cat([x, skips.pop()], dim=1), time, asks)
        if self.grow is not None:
            x = self.grow(x, skips[-1].shape[2:])         # an odd size is halved to its larger half
        return x


class SpatialTransformer(nn.Module):
    """Every pixel a token: normalise, project in, transformer blocks, project out, add."""

    def __init__(self, config: UNetConfig, level: int, depth: int, is_middle: bool = False) -> None:
        super().__init__()
        width, heads = config.channels[level], config.num_heads[level]
        self.norm = GroupNorm(config.num_groups, width, eps=1e-6)
        self.proj_in = Linear(width, width)
        kind = PromptBlock if config.attends_alone(level) and not is_middle else TransformerBlock
        self.blocks = nn.ModuleList(kind(width, heads, config.context_width) for _ in range(depth))
        self.proj_out = Linear(width, width)

    def forward(self, x: Tensor, asks: Iterator[KeysValues]) -> Tensor:
        height = x.shape[2]
        h = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))             # B T W
        for block in self.blocks:
            h = block(h, asks)
        return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=height)      # B C H W


class TransformerBlock(nn.Module):
    """Attention among the pixels, attention to the prompt, a gated feed-forward; each normalised and added."""

    def __init__(self, width: int, num_heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross = Attention(width, num_heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width)

    def project(self, tokens: Tensor) -> list[KeysValues]:
        """The keys and values of a prompt, in the order in which the block asks for them.  tokens B S W."""
        return [self.cross.project(tokens)]

    def forward(self, x: Tensor, asks: Iterator[KeysValues]) -> Tensor:
        """B T W -> B T W."""
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross(self.norm2(x), next(asks))
        return x + self.feed_forward(self.norm3(x))


class PromptBlock(TransformerBlock):
    """The same where pixels attend to the prompt instead of to each other, of which there are too many."""

    def __init__(self, width: int, num_heads: int, context_width: int) -> None:
        super().__init__(width, num_heads, context_width)
        self.self_attention = Attention(width, num_heads, context_width)

    def project(self, tokens: Tensor) -> list[KeysValues]:
        """Twice, once for each attention."""
        return [self.self_attention.project(tokens), self.cross.project(tokens)]

    def forward(self, x: Tensor, asks: Iterator[KeysValues]) -> Tensor:
        """B T W -> B T W."""
        x = x + self.self_attention(self.norm1(x), next(asks))
        x = x + self.cross(self.norm2(x), next(asks))
        return x + self.feed_forward(self.norm3(x))


class GatedFeedForward(nn.Module):
    """GEGLU (Shazeer 2020): half of the hidden units, gated by the GELU of the other half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = Linear(width, 8 * width)
        self.proj_out = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """B T W -> B T W."""
        hidden, gate = self.proj_in(x).chunk(2, dim=-1)                               # B T 4W each
        return self.proj_out(F.gelu(gate).mul_(hidden))                               # B T W


def _down_levels(config: UNetConfig) -> list[DownLevel]:
    return [DownLevel(config, level) for level in range(len(config.channels))]


def _up_levels(config: UNetConfig) -> list[UpLevel]:
    skips = _skip_channels(config)
    return [UpLevel(config, level, skips) for level in reversed(range(len(config.channels)))]


def _skip_channels(config: UNetConfig) -> list[int]:
    """The channels of the skips in the order in which the way down leaves them."""
    skips = [config.channels[0]]
    for level, width in enumerate(config.channels):
        shrinks = level < len(config.channels) - 1
        skips += [width] * (config.num_res_blocks + shrinks)
    return skips
