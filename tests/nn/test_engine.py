"""The door: sliced attention gives what the whole gives and keeps its bound; products and convolutions are torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.nn import engine
from marmo.nn.engine import LARGE_KERNEL, Conv2d, Linear, attend, convolve_patches


def draw(batch: int, heads: int, length: int, context: int, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q = torch.randn(batch, heads, length, width)
    k, v = torch.randn(2, batch, heads, context, width)
    return q, k, v


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every score matrix that is asked for."""
    asked: list[int] = []
    whole = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
        asked.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.element_size())
        return whole(q, k, v, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return asked


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("score_bytes", [1, 500, 2 * 3 * 5 * 4 * 7, 1 << 20])
def test_slices_equal_the_whole(score_bytes: int) -> None:
    q, k, v = draw(2, 3, 11, 5)
    sliced = attend(q, k, v, score_bytes=score_bytes)
    torch.testing.assert_close(sliced, by_hand(q, k, v), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sliced, attend(q, k, v), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("score_bytes", [300, 1000, 5000])
def test_no_score_matrix_outgrows_the_bound(scores: list[int], score_bytes: int) -> None:
    q, k, v = draw(2, 3, 50, 6)
    attend(q, k, v, score_bytes=score_bytes)
    assert sum(scores) == 2 * 3 * 50 * 6 * 4
    assert max(scores) <= score_bytes
    assert max(scores) > score_bytes // 2  # and no more slices than are needed


def test_half_precision_has_slices_twice_as_long(scores: list[int]) -> None:
    q, k, v = (x.bfloat16() for x in draw(1, 1, 64, 4))
    attend(q, k, v, score_bytes=8 * 16)
    assert len(scores) == 4


def test_a_picture_of_2048_pixels_stays_within_a_gibibyte(scores: list[int]) -> None:
    tokens = 256 * 256
    q = torch.empty(1, 8, tokens, 40, device="meta")
    attend(q, q, q)
    assert sum(scores) == 8 * tokens * tokens * 4
    assert max(scores) <= 1 << 30


def test_one_row_at_a_time_is_the_least(scores: list[int]) -> None:
    q, k, v = draw(1, 2, 3, 5)
    attend(q, k, v, score_bytes=1)
    assert scores == [2 * 5 * 4] * 3


def test_causal_attention_sees_no_future() -> None:
    q, k, v = draw(1, 2, 6, 6)
    changed = torch.cat([v[:, :, :4], v[:, :, 4:] + 1], dim=2)
    before, after = attend(q, k, v, causal=True), attend(q, k, changed, causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4:], after[:, :, 4:])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 1, 1)])
def test_patches_convolve(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(4, 6, 3, 3)
    offset = torch.randn(4) if bias else None
    torch.testing.assert_close(convolve_patches(x, weight, offset), F.conv2d(x, weight, offset, padding=1))


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of every product that does not go torch's way."""
    if not torch.backends.mkl.is_available():
        pytest.skip("torch would not ask MKL here")
    shapes: list[tuple[int, ...]] = []
    multiply = engine._multiply

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(x.shape))
        return multiply(x, weight, bias)

    monkeypatch.setattr(engine, "_multiply", spy)
    return shapes


def test_a_large_kernel_over_a_small_picture_gives_the_same_numbers(by_onednn: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    conv, x = Conv2d(1024, 1024, 3, padding=1).requires_grad_(False), torch.randn(1, 1024, 4, 6)
    assert conv.weight.nbytes > LARGE_KERNEL
    expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-4)
    assert by_onednn == [(1, 4, 6, 9 * 1024)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 7), (0, 7)])
def test_a_product_without_gradients_is_onednns(
    by_onednn: list[tuple[int, ...]], shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    linear, x = Linear(7, 4, bias=bias).requires_grad_(False), torch.randn(shape)
    torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))
    assert by_onednn == [shape]


def test_a_product_of_numbers_that_lie_apart(by_onednn: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    linear, x = Linear(6, 4).requires_grad_(False), torch.randn(6, 5).T[::2]
    torch.testing.assert_close(linear(x), F.linear(x.contiguous(), linear.weight, linear.bias))
    assert by_onednn


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_are_torchs(by_onednn: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    linear = Linear(7, 4, dtype=dtype).requires_grad_(False)
    assert linear(torch.randn(3, 7, dtype=dtype)).dtype == dtype and not by_onednn


@pytest.mark.parametrize("trained", ["weight", "input"])
def test_where_a_gradient_is_wanted_it_flows(by_onednn: list[tuple[int, ...]], trained: str) -> None:
    linear, conv = Linear(7, 4), Conv2d(6, 4, 3, padding=1)
    wants = trained == "weight"
    for layer, shape in ((linear, (3, 7)), (conv, (1, 6, 5, 5))):
        x = torch.randn(shape, requires_grad=not wants)
        layer.requires_grad_(wants)(x).sum().backward()
        assert (layer.weight if wants else x).grad is not None
    assert not by_onednn


def test_pictures_stay_laid_out_channels_last() -> None:
    conv, x = Conv2d(6, 4, 3, padding=1).requires_grad_(False), torch.randn(2, 6, 5, 7)
    y = conv(x)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    torch.testing.assert_close(y, F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert conv.weight.is_contiguous()  # only the picture: kernels stay views of their file
