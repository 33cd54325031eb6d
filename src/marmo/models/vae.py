"""The autoencoder of latent diffusion (kl-f8 and its kin): pictures to latents an eighth of their size, and back.

Rombach et al. 2022, section 3.1; the blocks are those of VQGAN (Esser et al. 2021).

Shapes: B batch, C channels of a level, H W height and width, F the factor 2^(levels - 1), Z latent channels.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.attention import Attention
from marmo.nn.blocks import ResBlock, Upsample
from marmo.nn.engine import Conv2d, GroupNorm, Linear, pad


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Levels run from full size to latent size."""

    channels: tuple[int, ...]
    latent_channels: int
    latent_scale: float                   # latents times this have about unit variance
    num_res_blocks: int = 2
    num_groups: int = 32

    @property
    def factor(self) -> int:
        """Pixels per latent along each axis."""
        return 2 ** (len(self.channels) - 1)


KL_F8 = VAEConfig(channels=(128, 256, 512, 512), latent_channels=4, latent_scale=0.18215)
KL_F8_TOY = replace(KL_F8, channels=(32, 32, 64, 64), num_res_blocks=1)
SD_X4_VAE = replace(KL_F8, channels=(128, 256, 512), latent_scale=0.08333)
SD_X4_VAE_TOY = replace(SD_X4_VAE, channels=(32, 32, 64), num_res_blocks=1)
SDXL_VAE = replace(KL_F8, latent_scale=0.13025)
SDXL_VAE_TOY = replace(KL_F8_TOY, latent_scale=0.13025)


class Moments(NamedTuple):
    """A diagonal Gaussian over latents; both B Z H/F W/F, the logarithm of the variance within [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + standard deviation * noise."""
        return self.mean + (0.5 * self.logvar).exp() * noise


class VAE(nn.Module):
    """Encoder and decoder.  Latents are the network's own; `latent_scale` is the caller's to apply."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        latents = config.latent_channels
        self.encoder = Encoder(config, 2 * latents)
        self.to_moments = Conv2d(2 * latents, 2 * latents, 1)
        self.from_latents = Conv2d(latents, latents, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Moments:
        """Pixels B 3 H W in [-1, 1] -> the distribution of their latents."""
        mean, logvar = self.to_moments(self.encoder(x)).chunk(2, dim=1)               # B Z H/F W/F each
        return Moments(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """Latents B Z H/F W/F -> pixels B 3 H W, about [-1, 1]."""
        return self.decoder(self.from_latents(z))


class Encoder(nn.Module):
    """conv, levels that halve, middle, conv to `out_channels`."""

    def __init__(self, config: VAEConfig, out_channels: int) -> None:
        super().__init__()
        deepest = config.channels[-1]
        self.conv_in = Conv2d(3, config.channels[0], 3, padding=1)
        self.down = nn.ModuleList(DownLevel(config, level) for level in range(len(config.channels)))
        self.mid = Middle(deepest, config.num_groups)
        self.norm_out = GroupNorm(config.num_groups, deepest, eps=1e-6)
        self.conv_out = Conv2d(deepest, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """B 3 H W -> B O H/F W/F."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x)), inplace=True))


class Decoder(nn.Module):
    """conv, middle, levels that double, conv to colours."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        finest, deepest = config.channels[0], config.channels[-1]
        self.conv_in = Conv2d(config.latent_channels, deepest, 3, padding=1)
        self.mid = Middle(deepest, config.num_groups)
        levels = reversed(range(len(config.channels)))
        self.up = nn.ModuleList(UpLevel(config, level) for level in levels)           # in the order of use
        self.norm_out = GroupNorm(config.num_groups, finest, eps=1e-6)
        self.conv_out = Conv2d(finest, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """B Z H/F W/F -> B 3 H W."""
        x = self.mid(self.conv_in(z))
        for level in self.up:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))


class DownLevel(nn.Module):
    """Residual blocks; then, unless the level is the last, half the size."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        width, before = config.channels[level], config.channels[max(level - 1, 0)]
        inputs = [before] + [width] * (config.num_res_blocks - 1)
        self.blocks = nn.ModuleList(ResBlock(channels, width, config.num_groups, eps=1e-6) for channels in inputs)
        last = level == len(config.channels) - 1
        self.shrink = None if last else Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C' H/2 W/2."""
        for block in self.blocks:
            x = block(x)
        if self.shrink is not None:
            x = self.shrink(pad(x, 0, 1, 0, 1, self.shrink.wrap))     # right and bottom only, as the original does
        return x


class UpLevel(nn.Module):
    """One residual block more than on the way down; then, unless the level is the finest, twice the size."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        width, below = config.channels[level], config.channels[min(level + 1, len(config.channels) - 1)]
        inputs = [below] + [width] * config.num_res_blocks
        self.blocks = nn.ModuleList(ResBlock(channels, width, config.num_groups, eps=1e-6) for channels in inputs)
        self.grow = Upsample(width) if level else None

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C' 2H 2W."""
        for block in self.blocks:
            x = block(x)
        return x if self.grow is None else self.grow(x)


class Middle(nn.Module):
    """Residual block, attention of every position to every other, residual block."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.res1 = ResBlock(channels, channels, num_groups, eps=1e-6)
        self.norm = GroupNorm(num_groups, channels, eps=1e-6)
        self.attention = Attention(channels, num_heads=1, qkv_bias=True)
        self.res2 = ResBlock(channels, channels, num_groups, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C H W."""
        x = self.res1(x)
        tokens = self.attention(rearrange(self.norm(x), "b c h w -> b (h w) c"))      # B HW C
        return self.res2(x + rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2]))


CARRIER = 2.0
"""What `begin_blurred` puts under the even channels, and takes from the odd ones."""
UNCERTAIN = -5.0
"""The logarithm of the variance with which it begins."""
LOUDER = 4.0
"""Its latents are block means times this, of about unit variance."""


@torch.no_grad()
def begin_blurred(vae: VAE) -> VAE:
    """Weights with which an untrained autoencoder gives back, roughly, the mean colours of blocks.  Returns it.

    torch's own draw loses colour for long: a group norm takes away whatever fills the picture, and every convolution
    on the straight way halves the signal.  Here residual branches begin with nothing, the straight way copies, and
    every channel carries a constant, up and down in turn, beside which a norm's mean and deviation hardly notice the
    picture; the last norms take it away again.  The other channels of the encoder begin with details, drawn at random.

    Raises `ValueError` for groups of an odd number of channels.
    """
    if any(channels // vae.config.num_groups % 2 for channels in vae.config.channels):
        raise ValueError(f"groups must have an even number of channels; choose fewer than {vae.config.num_groups}")
    for module in vae.modules():
        match module:
            case ResBlock():
                _begin_block(module)
            case Middle():
                _zero(module.attention.out)
            case Upsample():
                _copying(module.conv)
            case DownLevel(shrink=Conv2d() as shrink):
                _begin_shrink(shrink)
            case _:
                pass
    for half in (vae.encoder, vae.decoder):
        _copying(half.conv_in, _carrier(half.conv_in.out_channels))
        half.norm_out.weight.fill_(CARRIER)
        half.norm_out.bias.copy_(1 - _carrier(half.norm_out.num_channels))       # 1: where SiLU is nearly straight
    _begin_latents(vae)
    return vae


def _begin_block(block: ResBlock) -> None:
    """Nothing on the branch; on the shortcut a copy, and a constant under the new channels."""
    _zero(block.conv2)
    if isinstance(block.shortcut, Conv2d):
        fresh = _carrier(block.shortcut.out_channels)
        fresh[: block.shortcut.in_channels] = 0                                       # the copied ones have theirs
        _copying(block.shortcut, fresh)


def _begin_shrink(conv: Conv2d) -> None:
    """Colours are averaged; of other channels, differences of neighbours."""
    weight, bias = conv.weight, _carrier(conv.out_channels)
    weight.sub_(weight.mean((1, 2, 3), keepdim=True)).mul_(3**0.5)                    # as much out as in
    weight[:3], bias[:3] = 0, 0
    for colour in range(3):
        weight[colour, colour, :2, :2] = 1 / 4
    _bias(conv).copy_(bias)


def _begin_latents(vae: VAE) -> None:
    latents = vae.config.latent_channels
    straight = F.silu(torch.ones(()))                                                 # what SiLU makes of the 1
    out = vae.encoder.conv_out
    out.weight[:3] = 0
    for colour in range(3):
        out.weight[colour, colour, 1, 1] = 1
    _bias(out).zero_()[:3] = -straight
    _copying(vae.to_moments)
    vae.to_moments.weight[:latents] *= LOUDER
    vae.to_moments.weight[latents:] = 0
    _bias(vae.to_moments)[latents:] = UNCERTAIN
    _copying(vae.from_latents)
    vae.from_latents.weight /= LOUDER
    _copying(vae.decoder.conv_out, -straight.expand(3))


def _carrier(channels: int) -> Tensor:
    """+, -, +, - ..."""
    return CARRIER * torch.tensor([1.0, -1.0]).repeat(-(-channels // 2))[:channels]


def _copying(conv: Conv2d, bias: Tensor | None = None) -> None:
    nn.init.dirac_(conv.weight)
    _bias(conv).copy_(torch.zeros_like(_bias(conv)) if bias is None else bias)


def _zero(layer: Conv2d | Linear) -> None:
    layer.weight.zero_()
    if layer.bias is not None:
        layer.bias.zero_()


def _bias(conv: Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
