"""DINOv2's vision transformer: a picture to one vector, learned from pictures alone.

Oquab et al. 2023 (https://arxiv.org/abs/2304.07193); registers: Darcet et al. 2023 (https://arxiv.org/abs/2309.16588).
Stein et al. 2023 (https://arxiv.org/abs/2306.04675) measure generators in its space.

Shapes: B batch, H W height and width in patches, T tokens, C width, M side of the stored positions in patches.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.nn.attention import Attention
from marmo.nn.engine import Conv2d
from marmo.nn.transformer import FeedForward

# Of red, green and blue in [0, 1]: ImageNet's, with which it was trained.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

EPS = 1e-6

Resampling = Literal["offset", "plain", "antialiased"]
"""How positions are made for pictures of another size than the training's.

Meta's code adds 0.1 to the number of patches before it divides ("offset"): at 16 patches the samples lie 0.6 % nearer
together, and published distances rest on that.  transformers does not ("plain").  With registers both antialias.
"""


@dataclass(frozen=True, kw_only=True)
class DinoV2Config:
    """Positions are stored for squares of `image_size` pixels; pictures may have other sizes."""

    width: int
    num_layers: int
    num_heads: int
    patch_size: int = 14
    image_size: int = 518
    num_registers: int = 0
    mlp_ratio: int = 4
    resampling: Resampling = "offset"

    @property
    def side(self) -> int:
        """Patches along a side of the stored positions."""
        return self.image_size // self.patch_size


VIT_B_14 = DinoV2Config(width=768, num_layers=12, num_heads=12)
VIT_S_14 = replace(VIT_B_14, width=384, num_heads=6)
VIT_L_14 = replace(VIT_B_14, width=1024, num_layers=24, num_heads=16)
DINOV2_TOY = replace(VIT_B_14, width=32, num_layers=2, num_heads=2, patch_size=4, image_size=20)


def with_registers(config: DinoV2Config) -> DinoV2Config:
    """The variant of Darcet et al.: four more tokens, which collect what patches would otherwise be misused for."""
    return replace(config, num_registers=4, resampling="antialiased")


class DinoV2(nn.Module):
    """Class token, registers and patches, blocks, a norm; the class token is the picture's vector."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of training; kept so that files stay whole
        self.registers = nn.Parameter(torch.zeros(1, config.num_registers, width)) if config.num_registers else None
        self.positions = nn.Parameter(torch.empty(1, 1 + config.side**2, width))
        self.blocks = nn.ModuleList(ScaledBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width, EPS)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 S S' normalised by `PIXEL_MEAN` and `PIXEL_STD`, sides multiples of the patch -> B C."""
        size = self.config.patch_size
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % size or x.shape[3] % size:
            raise ValueError(
                f"pixels have the shape {list(x.shape)}; this DINOv2 takes [batch, 3, height, width], the last two "
                f"multiples of {size}"
            )
        patches = self.patches(x)                                                     # B C H W
        positions = self._positions(patches.shape[2], patches.shape[3])               # 1 1+HW C
        first = self.class_token.expand(len(x), -1, -1)                               # B 1 C
        x = torch.cat([first, rearrange(patches, "b c h w -> b (h w) c")], dim=1)     # B 1+HW C
        x = x + positions
        if self.registers is not None:                                                # they have no place
            x = torch.cat([x[:, :1], self.registers.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)                                                              # B T C
        return self.norm(x[:, 0])                                                     # B C

    def _positions(self, height: int, width: int) -> Tensor:
        """For a picture of H x W patches.  -> 1 1+HW C."""
        side = self.config.side
        if (height, width) == (side, side):
            return self.positions
        grid = rearrange(self.positions[:, 1:].float(), "1 (h w) c -> 1 c h w", h=side)
        match self.config.resampling:
            case "offset":
                factors = ((height + 0.1) / side, (width + 0.1) / side)
                grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
            case "plain":
                grid = F.interpolate(grid, (height, width), mode="bicubic")
            case "antialiased":
                grid = F.interpolate(grid, (height, width), mode="bicubic", antialias=True)
        return torch.cat([self.positions[:, :1], rearrange(grid, "1 c h w -> 1 (h w) c").to(self.positions)], dim=1)


class ScaledBlock(nn.Module):
    """Attention, then a feed-forward; what each adds is scaled channel by channel (Touvron et al. 2021, LayerScale)."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attention = Attention(width, config.num_heads, qkv_bias=True)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width, EPS)
        self.feed_forward = FeedForward(width, config.mlp_ratio * width, "gelu")
        self.scale2 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """B T C -> B T C."""
        x = x + self.scale1 * self.attention(self.norm1(x))
        return x + self.scale2 * self.feed_forward(self.norm2(x))
