"""CLIP's text transformer: token ids to one state per token, in which a token knows all that stands before it.

Radford et al. 2021, section 2.4.  Stable Diffusion 1 paints from its states (Rombach et al. 2022).

Shapes: B batch, T tokens, W width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from marmo.nn.transformer import Activation, PreNormBlock


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """The END token must have the largest id of the vocabulary; see `ClipText.pool`."""

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int = 49408
    context_length: int = 77
    activation: Activation = "quick_gelu"  # OpenCLIP's models have "gelu"
    mlp_ratio: int = 4


VIT_L_14_TEXT = ClipTextConfig(width=768, num_layers=12, num_heads=12)
VIT_B_32_TEXT = replace(VIT_L_14_TEXT, width=512, num_heads=8)
VIT_L_14_TEXT_TOY = replace(VIT_L_14_TEXT, width=64, num_layers=2, num_heads=1)


class ClipText(nn.Module):
    """Embeddings of tokens and positions, causal blocks, a norm."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            PreNormBlock(config.width, config.num_heads, config.mlp_ratio, config.activation)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.tokens.weight, std=0.02)     # both as in OpenAI's code
        nn.init.normal_(self.positions, std=0.01)

    def forward(self, ids: Tensor, skip: int = 1) -> Tensor:
        """Token ids B T -> states B T W.

        Args:
            ids: int64, at most `context_length` of them in a row.
            skip: which layer's states to return, counted from the end, 1 being the last ("clip skip").  The final norm
                follows in any case, as Stable Diffusion 1 and 2 want it.
        """
        self._check(ids, skip)
        x = self.tokens(ids) + self.positions[: ids.shape[1]]                         # B T W
        for block in self.blocks[: len(self.blocks) + 1 - skip]:
            x = block(x, causal=True)
        return self.norm(x)                                                           # B T W

    def pool(self, states: Tensor, ids: Tensor) -> Tensor:
        """The state that has read the whole text: the one at the END token.  States B T W of ids B T -> B W.

        END is found as OpenAI does, at the first occurrence of the row's largest id, since no other id is larger; so it
        does not matter whether the text is padded with END or with 0.
        """
        rows = torch.arange(len(ids), device=ids.device)
        return states[rows, ids.argmax(dim=1)]                                        # B W

    def _check(self, ids: Tensor, skip: int) -> None:
        if ids.ndim != 2 or ids.shape[1] > self.config.context_length:
            raise ValueError(
                f"token ids have the shape {list(ids.shape)}; this text encoder takes [batch, tokens] with at most "
                f"{self.config.context_length} tokens"
            )
        if not 1 <= skip <= self.config.num_layers:
            raise ValueError(
                f"clip skip {skip} asks for a layer that this text encoder does not have; it has "
                f"{self.config.num_layers}, so choose 1 (the last) to {self.config.num_layers} (the first)"
            )
