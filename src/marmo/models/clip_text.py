"""CLIP's text transformer: token ids to one state per token, in which a token knows all that stands before it.

Radford et al. 2021, section 2.4; OpenCLIP's towers are Cherti et al. 2023.  Stable Diffusion 1 paints from the last
layer's states (Rombach et al. 2022), Stable Diffusion 2 and SDXL from those of the last but one (Podell et al. 2023).

Shapes: B batch, T tokens, W width, E width of the embedding.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from marmo.nn.engine import Linear
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
    embed_width: int | None = None        # of the projected text; none where the model has no use for it
    num_cut: int = 0                      # layers of the tower that the file leaves out, at its end

    @property
    def num_blocks(self) -> int:
        """The layers that are there."""
        return self.num_layers - self.num_cut


VIT_L_14_TEXT = ClipTextConfig(width=768, num_layers=12, num_heads=12)
VIT_B_32_TEXT = replace(VIT_L_14_TEXT, width=512, num_heads=8)
VIT_H_14_TEXT = ClipTextConfig(width=1024, num_layers=24, num_heads=16, activation="gelu")
VIT_BIGG_14_TEXT = ClipTextConfig(width=1280, num_layers=32, num_heads=20, activation="gelu", embed_width=1280)
VIT_L_14_TEXT_TOY = replace(VIT_L_14_TEXT, width=64, num_layers=2, num_heads=1)
VIT_H_14_TEXT_TOY = replace(VIT_H_14_TEXT, width=64, num_layers=3, num_heads=1)
VIT_BIGG_14_TEXT_TOY = replace(VIT_BIGG_14_TEXT, width=128, num_layers=3, num_heads=2, embed_width=128)


class ClipText(nn.Module):
    """Embeddings of tokens and positions, causal blocks, a norm; where the config asks for it, a projection."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            PreNormBlock(config.width, config.num_heads, config.mlp_ratio, config.activation)
            for _ in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.proj = None if config.embed_width is None else Linear(config.width, config.embed_width, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)     # both as in OpenAI's code
        nn.init.normal_(self.positions, std=0.01)

    def forward(self, ids: Tensor, skip: int = 1) -> Tensor:
        """Token ids B T -> states B T W, after the final norm; the arguments are those of `hidden`."""
        return self.norm(self.hidden(ids, skip))                                      # B T W

    def hidden(self, ids: Tensor, skip: int = 1) -> Tensor:
        """Token ids B T -> the states that a layer writes, without the final norm: B T W.

        Args:
            ids: int64, at most `context_length` of them in a row.
            skip: which layer, counted from the tower's end, 1 being the last ("clip skip").
        """
        self._check(ids, skip)
        x = self.tokens(ids) + self.positions[: ids.shape[1]]                         # B T W
        return self._through(x, 0, self._end(skip))

    def embed(self, hidden: Tensor, ids: Tensor, skip: int = 1) -> Tensor:
        """The whole text as one vector, from what `hidden` gave at that `skip` on.  B T W of ids B T -> B E.

        Where the config asks for no projection, it is the last token's state, B W.
        """
        states = self.norm(self._through(hidden, self._end(skip), len(self.blocks)))  # B T W
        pooled = self.pool(states, ids)                                               # B W
        return pooled if self.proj is None else self.proj(pooled)                     # B E

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
        nearest = 1 + self.config.num_cut
        if not nearest <= skip <= self.config.num_layers:
            raise ValueError(
                f"clip skip {skip} asks for a layer that this text encoder does not have; choose {nearest} (the last "
                f"that is there) to {self.config.num_layers} (the first)"
            )

    def _end(self, skip: int) -> int:
        """How many blocks lie before the states that `skip` names."""
        return self.config.num_layers + 1 - skip

    def _through(self, x: Tensor, start: int, end: int) -> Tensor:
        for block in self.blocks[start:end]:
            x = block(x, causal=True)
        return x                                                                      # B T W
