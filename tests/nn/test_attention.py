"""Attention against its formula, and contexts that are projected once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.attention import Attention, bound_scores


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


def test_a_bound_on_the_scores_holds_for_all_attention_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network, other = nn.ModuleList([attention(), attention(context_width=7)]), attention()
    x = torch.randn(2, 50, 12)
    whole = network[0](x)
    asked: list[int] = []
    kernel = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
        asked.append(q.shape[:3].numel() * k.shape[2] * 4)
        return kernel(q, k, v, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    bound_scores(network, 2000 * 12)
    torch.testing.assert_close(network[0](x), whole, rtol=1e-5, atol=1e-6)
    network[1](x, network[1].project(torch.randn(1, 60, 7)))
    assert len(asked) > 4 and max(asked) <= 24000
    asked.clear()
    other(x)
    assert asked == [2 * 3 * 50 * 50 * 4]
