"""Attention against its formula, and contexts that are projected once."""

import pytest
import torch
from torch import Tensor, nn

from marmo.nn.attention import Attention


def attention(**options: int | bool) -> Attention:
    torch.manual_seed(0)
    return Attention(12, 3, **options)


def by_hand(block: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Head by head."""
    q, k, v = block.q(x), block.k(context), block.v(context)
    heads = [
        (q[..., part] @ k[..., part].mT / 2.0).softmax(-1) @ v[..., part]  # sqrt(4) = 2
        for part in (slice(0, 4), slice(4, 8), slice(8, 12))
    ]
    return block.out(torch.cat(heads, dim=-1))


def test_self_attention_follows_the_formula() -> None:
    block, x = attention(qkv_bias=True), torch.randn(2, 5, 12)
    torch.testing.assert_close(block(x), by_hand(block, x, x), rtol=1e-5, atol=1e-6)


def test_cross_attention_follows_the_formula() -> None:
    block, x, context = attention(context_width=7), torch.randn(2, 5, 12), torch.randn(2, 3, 7)
    torch.testing.assert_close(block(x, block.project(context)), by_hand(block, x, context), rtol=1e-5, atol=1e-6)


def test_a_context_of_one_serves_a_batch() -> None:
    block, x, context = attention(context_width=7), torch.randn(4, 5, 12), torch.randn(1, 3, 7)
    once = block(x, block.project(context))
    repeated = block(x, block.project(context.repeat(4, 1, 1)))
    torch.testing.assert_close(once, repeated, rtol=1e-5, atol=1e-6)


def test_projecting_gives_heads() -> None:
    keys, values = attention(context_width=7).project(torch.randn(2, 3, 7))
    assert keys.shape == values.shape == (2, 3, 3, 4)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_biases(qkv_bias: bool) -> None:
    block = attention(qkv_bias=qkv_bias)
    assert [isinstance(part.bias, nn.Parameter) for part in (block.q, block.k, block.v)] == [qkv_bias] * 3
    assert block.out.bias is not None
