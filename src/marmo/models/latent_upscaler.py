"""The U-Net of k-diffusion, as the latent x2 upscaler has it: latents twice as wide and high, told by a prompt.

Karras et al. 2022 (the noise level as the clock), Tancik et al. 2020 (it as Fourier features), Dhariwal and Nichol 2021
(norms that the clock scales and shifts), Zhang 2019 (blurs where the size changes); the network itself is Crowson's
(`image_v1` in crowsonkb/k-diffusion), whose released weights diffusers calls sd-x2-latent-upscaler.

Shapes: B batch, C channels of a level, H W height and width of a level, T = H W tokens, S context tokens, W width,
E width of the clock's embedding, V width of the vector.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.models.unet import Context
from marmo.nn.attention import Attention, KeysValues
from marmo.nn.engine import Conv2d, Edged, Linear, pad


@dataclass(frozen=True, kw_only=True)
class LatentUpscalerConfig:
    """One entry per level, from the finest to the coarsest, in `channels` and `attends`."""

    in_channels: int                      # latents, and beside them the small picture's
    out_channels: int                     # latents, and the logarithm of a variance
    channels: tuple[int, ...]
    attends: tuple[bool, ...]             # whether a level hears the prompt; the coarsest then attends to itself too
    context_width: int                    # of the text encoder's states
    vector_width: int                     # of what it is told beside clock and prompt
    head_width: int = 64
    num_res_blocks: int = 4
    group_width: int = 32                 # channels that are normalised together

    @property
    def time_width(self) -> int:
        """Of the clock's embedding."""
        return 2 * self.channels[0]


SD_X2 = LatentUpscalerConfig(
    in_channels=8, out_channels=5, channels=(384, 384, 768, 768), attends=(False, True, True, True),
    context_width=768, vector_width=128 + 768,
)
SD_X2_TOY = replace(
    SD_X2, channels=(32, 32, 64, 64), head_width=16, num_res_blocks=1, context_width=64, vector_width=128 + 64,
)


class LatentUpscaler(nn.Module):
    """Predicts what `edm` calls the output, from noisy latents and, beside them, those of the small picture."""

    def __init__(self, config: LatentUpscalerConfig) -> None:
        super().__init__()
        self.config = config
        first, levels = config.channels[0], range(len(config.channels))
        self.frequencies = nn.Parameter(torch.randn(first))
        self.vector = Linear(config.vector_width, config.time_width, bias=False)
        self.time_in = Linear(config.time_width, config.time_width)
        self.time_out = Linear(config.time_width, config.time_width)
        self.conv_in = Conv2d(config.in_channels, first, 1)
        self.down = nn.ModuleList(DownLevel(config, level) for level in levels)
        self.up = nn.ModuleList(UpLevel(config, level) for level in reversed(levels))      # the deepest level first
        self.conv_out = Conv2d(first, config.out_channels, 1)

    def project(self, tokens: Tensor) -> Context:
        """The keys and values of a prompt, which stay the same at every step.  tokens B S W."""
        return [block.project(tokens) for block in self.modules() if isinstance(block, PromptAttention)]

    def forward(self, x: Tensor, t: Tensor, context: Context, vector: Tensor | None = None) -> Tensor:
        """x B C H W, t B (ln(sigma) / 4), context and vector V of the same batch or of 1 -> B C' H W."""
        assert vector is not None, "this U-Net is told a vector beside the prompt"
        angles = 2 * math.pi * t.float()[:, None] * self.frequencies.float()          # B E/2
        time = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype) + self.vector(vector.to(x.dtype))
        time = F.gelu(self.time_out(F.gelu(self.time_in(time))))                      # B E
        asks = iter(context)                # `modules()` and this pass visit the cross-attentions in one order
        x, skips = self.conv_in(x), list[Tensor]()                                    # B C0 H W
        for level in self.down:
            x = level(x, time, asks, skips)                                           # B Ci H/2^i W/2^i
        skips.pop()                         # of the coarsest level, which goes on from its own end
        for level in self.up:
            x = level(x, time, asks, skips)
        return self.conv_out(x)                                                       # B C' H W


class Norm(nn.Module):
    """Group normalisation whose scale and shift the clock decides."""

    def __init__(self, config: LatentUpscalerConfig, channels: int) -> None:
        super().__init__()
        self.num_groups = max(channels // config.group_width, 1)
        self.proj = Linear(config.time_width, 2 * channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x B C H W, time B E -> B C H W."""
        scale, shift = self.proj(time)[:, :, None, None].chunk(2, dim=1)              # B C 1 1 each
        return F.group_norm(x, self.num_groups, eps=1e-5) * (1 + scale) + shift


class ResBlock(nn.Module):
    """norm, GELU, conv, norm, GELU, conv, plus a shortcut (1x1 where the channels differ)."""

    def __init__(self, config: LatentUpscalerConfig, channels: int, inner: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = Norm(config, channels)
        self.conv1 = Conv2d(channels, inner, 3, padding=1)
        self.norm2 = Norm(config, inner)
        self.conv2 = Conv2d(inner, out_channels, 3, padding=1)
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x B C H W, time B E -> B C' H W."""
        h = self.conv1(F.gelu(self.norm1(x, time)))
        h = self.conv2(F.gelu(self.norm2(h, time)))
        return self.shortcut(x) + h                                                   # B C' H W


class SelfAttention(nn.Module):
    """Every pixel attends to all; normalised and added."""

    def __init__(self, config: LatentUpscalerConfig, channels: int) -> None:
        super().__init__()
        self.norm = Norm(config, channels)
        self.attention = Attention(channels, channels // config.head_width, qkv_bias=True)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x B C H W, time B E -> B C H W."""
        h = self.attention(rearrange(self.norm(x, time), "b c h w -> b (h w) c"))     # B T C
        return x + rearrange(h, "b (h w) c -> b c h w", h=x.shape[2])


class PromptAttention(nn.Module):
    """Every pixel attends to the prompt, which is normalised as well."""

    def __init__(self, config: LatentUpscalerConfig, channels: int) -> None:
        super().__init__()
        self.norm = Norm(config, channels)
        self.norm_context = nn.LayerNorm(config.context_width)
        self.attention = Attention(channels, channels // config.head_width, config.context_width, qkv_bias=True)

    def project(self, tokens: Tensor) -> KeysValues:
        """The keys and values of a prompt.  tokens B S W."""
        return self.attention.project(self.norm_context(tokens))

    def forward(self, x: Tensor, time: Tensor, asked: KeysValues) -> Tensor:
        """x B C H W, time B E -> B C H W."""
        h = self.attention(rearrange(self.norm(x, time), "b c h w -> b (h w) c"), asked)
        return x + rearrange(h, "b (h w) c -> b c h w", h=x.shape[2])


class Stage(nn.Module):
    """A residual block and, where the level attends, attention among the pixels (coarsest level) and to the prompt."""

    def __init__(self, config: LatentUpscalerConfig, level: int, channels: int, out_channels: int) -> None:
        super().__init__()
        attends, coarsest = config.attends[level], level == len(config.channels) - 1
        self.res = ResBlock(config, channels, config.channels[level], out_channels)
        self.self_attention = SelfAttention(config, out_channels) if attends and coarsest else None
        self.cross = PromptAttention(config, out_channels) if attends else None

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues]) -> Tensor:
        x = self.res(x, time)
        if self.self_attention is not None:
            x = self.self_attention(x, time)
        return x if self.cross is None else self.cross(x, time, next(asks))


class DownLevel(nn.Module):
    """Stages at one size, the last leaving a skip; then, unless the level is the coarsest, half the size."""

    def __init__(self, config: LatentUpscalerConfig, level: int) -> None:
        super().__init__()
        width, before = config.channels[level], config.channels[max(level - 1, 0)]
        inputs = [before] + [width] * (config.num_res_blocks - 1)
        self.stages = nn.ModuleList(Stage(config, level, channels, width) for channels in inputs)
        self.shrink = Halve() if level < len(config.channels) - 1 else None

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues], skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(x, time, asks)
        skips.append(x)
        return x if self.shrink is None else self.shrink(x)


class UpLevel(nn.Module):
    """Stages at one size, the first eating a skip unless the level is the coarsest; then, unless the finest, twice it.

    The last stage already has the channels of the next finer level.
    """

    def __init__(self, config: LatentUpscalerConfig, level: int) -> None:
        super().__init__()
        width, above = config.channels[level], config.channels[max(level - 1, 0)]
        self.is_coarsest = level == len(config.channels) - 1
        inputs = [width if self.is_coarsest else 2 * width] + [width] * (config.num_res_blocks - 1)
        outputs = [width] * (config.num_res_blocks - 1) + [above]
        pairs = zip(inputs, outputs, strict=True)
        self.stages = nn.ModuleList(Stage(config, level, channels, out) for channels, out in pairs)
        self.grow = Double() if level else None

    def forward(self, x: Tensor, time: Tensor, asks: Iterator[KeysValues], skips: list[Tensor]) -> Tensor:
        if not self.is_coarsest:
            x = torch.cat([x, skips.pop()], dim=1)
        for stage in self.stages:
            x = stage(x, time, asks)
        if self.grow is not None:
            x = self.grow(x, skips[-1].shape[2:])         # an odd size is halved to its larger half
        return x


class Halve(Edged):
    """Half the size, blurred first with 1 3 3 1 along each axis, a mean of two thrice; the edge is mirrored."""

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C H/2 W/2."""
        height, width = x.shape[2:]
        x = pad(x, 1, 1 + width % 2, 1, 1 + height % 2, self.wrap, "reflect")
        blurred = F.avg_pool2d(F.avg_pool2d(x, 2, stride=1), 2, stride=1)
        return F.avg_pool2d(blurred, 2)


class Double(Edged):
    """Twice the size through the same blur, which is bilinear interpolation; the edge is mirrored."""

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """B C H W -> B C of `size`, twice it or one less."""
        x = pad(x, 1, 1, 1, 1, self.wrap, "reflect")
        return F.interpolate(x, scale_factor=2, mode="bilinear")[:, :, 2 : 2 + size[0], 2 : 2 + size[1]]
