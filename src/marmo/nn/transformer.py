"""The block that CLIP's text and image towers stack: attention and a feed-forward, each normalised before and added.

Vaswani et al. 2017, with the norms before instead of after (Radford et al. 2019, GPT-2, section 2.3).

Shapes: B batch, T tokens, W width.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.attention import Attention
from marmo.nn.engine import Linear

Activation = Literal["quick_gelu", "gelu"]


def quick_gelu(x: Tensor) -> Tensor:
    """GELU by a sigmoid (Hendrycks and Gimpel 2016, section 2), which OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class PreNormBlock(nn.Module):
    """Attention, then a feed-forward of `mlp_ratio` times the width; each reads normalised states and adds to them."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, activation: Activation) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, mlp_ratio * width, activation)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """B T W -> B T W; where `causal`, no token attends to a later one."""
        x = x + self.attention(self.norm1(x), causal=causal)
        return x + self.feed_forward(self.norm2(x))


class FeedForward(nn.Module):
    """Linear, activation, linear, for every token by itself."""

    def __init__(self, width: int, hidden_width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.proj_in = Linear(width, hidden_width)
        self.proj_out = Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """B T W -> B T W."""
        return self.proj_out(self.activation(self.proj_in(x)))
