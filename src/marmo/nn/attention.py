"""Multi-head attention, with the keys and values of a fixed context computed once.

Shapes: B batch, T query tokens, S context tokens, W width, N heads, D = W / N.
"""

from typing import NamedTuple

from einops import rearrange
from torch import Tensor, nn

from marmo.nn.engine import SCORE_BYTES, Linear, attend


class KeysValues(NamedTuple):
    """What attention needs to know of its context: both BNSD.  A batch of 1 serves any batch."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Attention of x to itself or to a context.

    Args:
        width: of x and of the result.
        context_width: of the context; `width` for self-attention.
        num_heads: heads of width / num_heads each.
        qkv_bias: biases on the three input projections.  The output projection always has one.
    """

    score_bytes = SCORE_BYTES
    """See `bound_scores`."""

    def __init__(self, width: int, num_heads: int, context_width: int | None = None, qkv_bias: bool = False) -> None:
        super().__init__()
        context_width = width if context_width is None else context_width
        self.num_heads = num_heads
        self.q = Linear(width, width, bias=qkv_bias)
        self.k = Linear(context_width, width, bias=qkv_bias)
        self.v = Linear(context_width, width, bias=qkv_bias)
        self.out = Linear(width, width)

    def project(self, context: Tensor) -> KeysValues:
        """The context's keys and values.  BSW -> BNSD each."""
        return KeysValues(self._heads(self.k(context)), self._heads(self.v(context)))

    def forward(self, x: Tensor, context: KeysValues | None = None, causal: bool = False) -> Tensor:
        """x BTW -> BTW; without a context, x attends to itself."""
        keys, values = self.project(x) if context is None else context
        q = self._heads(self.q(x))                                                   # B N T D
        batch = q.shape[0]
        x = attend(q, keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), causal, self.score_bytes)
        return self.out(rearrange(x, "b n t d -> b t (n d)"))                        # B T W

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (n d) -> b n t d", n=self.num_heads)


def bound_scores(network: nn.Module, score_bytes: int) -> None:
    """From now on no attention of a network has a score matrix of more bytes."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.score_bytes = score_bytes
