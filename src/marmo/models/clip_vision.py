"""CLIP's vision transformer: a picture to one vector.

Dosovitskiy et al. 2021 (ViT), Radford et al. 2021, section 2.4 (one more norm before the blocks).

Shapes: B batch, H W height and width in patches, T = 1 + H W tokens, C width, E width of the embedding.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.engine import Conv2d, Linear
from marmo.nn.transformer import Activation, PreNormBlock


@dataclass(frozen=True, kw_only=True)
class ClipVisionConfig:
    """Pictures are squares of `image_size` pixels, a multiple of `patch_size`."""

    width: int
    num_layers: int
    num_heads: int
    patch_size: int
    embed_width: int                      # of the space that text and pictures share
    image_size: int = 224
    activation: Activation = "quick_gelu"  # OpenCLIP's models have "gelu"
    mlp_ratio: int = 4

    @property
    def num_tokens(self) -> int:
        """The class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


VIT_L_14_IMAGE = ClipVisionConfig(width=1024, num_layers=24, num_heads=16, patch_size=14, embed_width=768)
VIT_L_14_336_IMAGE = replace(VIT_L_14_IMAGE, image_size=336)
VIT_B_32_IMAGE = replace(VIT_L_14_IMAGE, width=768, num_layers=12, num_heads=12, patch_size=32, embed_width=512)


class ClipVision(nn.Module):
    """Patches and a class token, a norm, blocks; the class token, normalised and projected, is the picture's vector."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(config.num_tokens, width))
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            PreNormBlock(width, config.num_heads, config.mlp_ratio, config.activation)
            for _ in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj = Linear(width, config.embed_width, bias=False)
        for vector in (self.class_token, self.positions):
            nn.init.normal_(vector, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 S S as `clip.preprocess` makes them -> B E, of any length."""
        patches = rearrange(self.patches(x), "b c h w -> b (h w) c")                  # B HW C
        first = self.class_token.expand(len(x), 1, -1)                                # B 1 C
        x = self.norm_in(torch.cat([first, patches], dim=1) + self.positions)         # B T C
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm_out(x[:, 0]))                                      # B E
