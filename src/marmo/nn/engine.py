"""The three operations where the time goes, behind one door, so that another engine can take their place.

Every network of Marmo attends, convolves and multiplies through this module and no other.
Shapes: B batch, C channels, H W height and width, N heads, T tokens, D width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORE_BYTES = 1 << 30
"""Attention's score matrix never takes more; longer sequences are attended slice by slice."""


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, score_bytes: int = SCORE_BYTES) -> Tensor:
    """Softmax attention.  q BNTD, k and v BNSD -> BNTD.

    The queries are cut into slices whose scores (B N T S numbers) fit `score_bytes`, whether or not the device has a
    kernel that never stores them: the bound holds everywhere and a long slice costs a fused kernel nothing.
    """
    batch, heads, length, _ = q.shape
    rows = max(1, score_bytes // (batch * heads * k.shape[2] * q.element_size()))
    if causal or rows >= length:  # causal sequences are captions: short
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return torch.cat([F.scaled_dot_product_attention(part, k, v) for part in torch.split(q, rows, dim=2)], dim=2)


class Linear(nn.Linear):
    """x @ weight.T + bias over the last axis."""


class Conv2d(nn.Conv2d):
    """Convolution over H and W of BCHW."""
