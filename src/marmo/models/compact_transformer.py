"""A compact convolutional transformer: a picture to features of an eighth of its side.

Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers": convolutions make the tokens, so a
transformer learns from little data.

Shapes: B batch, C channels, H W height and width, T = H W / 64 tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.engine import Conv2d
from marmo.nn.transformer import PreNormBlock

STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class CompactTransformerConfig:
    """Pictures are squares of `image_size` pixels, a multiple of 8."""

    image_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: int = 2

    @property
    def out_channels(self) -> int:
        return self.width


class CompactTransformer(nn.Module):
    """Three convolutions with strides, positions, blocks, a norm."""

    def __init__(self, config: CompactTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.width, config.image_size // STRIDE
        self.conv1 = Conv2d(3, width // 4, 3, stride=2, padding=1)
        self.conv2 = Conv2d(width // 4, width // 2, 3, stride=2, padding=1)
        self.conv3 = Conv2d(width // 2, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(0.02 * torch.randn(side * side, width))
        self.blocks = nn.ModuleList(
            PreNormBlock(width, config.num_heads, config.mlp_ratio, "gelu") for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 S S -> B C S/8 S/8."""
        x = F.gelu(self.conv1(x))                                                     # B C/4 S/2 S/2
        x = F.gelu(self.conv2(x))                                                     # B C/2 S/4 S/4
        x = self.conv3(x)                                                             # B C S/8 S/8
        height = x.shape[2]
        x = rearrange(x, "b c h w -> b (h w) c") + self.positions                     # B T C
        for block in self.blocks:
            x = block(x)
        return rearrange(self.norm(x), "b (h w) c -> b c h w", h=height)
