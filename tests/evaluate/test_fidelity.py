"""PSNR, SSIM and MS-SSIM: identities and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from marmo.evaluate.fidelity import K1, ms_ssim, psnr, ssim

ALL = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}
every_measure = pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
structural = pytest.mark.parametrize("measure", [ssim, ms_ssim])


def pictures(seed: int = 0, side: int = 192) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 12, generator=draw), (side, side), mode="bicubic")
    return (coarse * 220 + 10 + 5 * torch.randn(coarse.shape, generator=draw)).clamp(0, 255).byte()


def noisy(x: Tensor, size: float) -> Tensor:
    return (x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))).round().clamp(0, 255).byte()


@structural
def test_a_picture_is_like_itself(measure) -> None:
    assert torch.allclose(measure(pictures(), pictures()), torch.ones(2, dtype=torch.float64), atol=1e-12)


def test_equal_pictures_have_no_noise() -> None:
    assert psnr(pictures(), pictures()).tolist() == [math.inf] * 2


@pytest.mark.long
@every_measure
def test_symmetric_and_falling_with_noise(measure) -> None:
    x = pictures()
    values = [measure(noisy(x, size), x) for size in (2, 8, 32)]
    assert all((first > second).all() for first, second in pairwise(values))
    assert torch.allclose(measure(x, noisy(x, 8)), values[1])


@every_measure
def test_pictures_are_measured_one_by_one(measure) -> None:
    x, y = pictures(), noisy(pictures(), 6)
    alone = torch.cat([measure(x[i : i + 1], y[i : i + 1]) for i in range(2)])
    assert torch.allclose(measure(x, y), alone, atol=1e-12)


@pytest.mark.long
@every_measure
def test_turned_pictures_are_as_alike(measure) -> None:
    x, y = pictures(), noisy(pictures(), 6)
    assert torch.allclose(measure(x.transpose(2, 3), y.transpose(2, 3)), measure(x, y), atol=1e-9)
    assert torch.allclose(measure(x.flip(3), y.flip(3)), measure(x, y), atol=1e-9)


def test_psnr_of_a_constant_error() -> None:
    x = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert psnr(x + 5, x).item() == pytest.approx(20 * math.log10(255 / 5))


def test_ssim_of_flat_pictures_is_that_of_their_brightness() -> None:
    """Without variance only the first factor is left: (2 x y + C1) / (x^2 + y^2 + C1)."""
    x, y = 100.0, 180.0
    c1 = (K1 * 255) ** 2
    flat = [torch.full((1, 3, 192, 192), int(level), dtype=torch.uint8) for level in (x, y)]
    expected = (2 * x * y + c1) / (x * x + y * y + c1)
    assert ssim(*flat).item() == pytest.approx(expected)
    assert ms_ssim(*flat).item() == pytest.approx(expected**0.1333)


def test_a_negative_is_the_opposite() -> None:
    x = pictures()
    assert (ssim(255 - x, x) < 0).all()
    assert (ms_ssim(255 - x, x) == 0).all()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 20), "as uint8, 0 to 255"),
        (torch.zeros(1, 3, 20, 20).byte(), torch.zeros(1, 3, 20, 21).byte(), "of the same shape"),
        (torch.zeros(3, 20, 20).byte(), torch.zeros(3, 20, 20).byte(), "of the same shape"),
        (torch.zeros(1, 3, 10, 20).byte(), torch.zeros(1, 3, 10, 20).byte(), "each side must have 11"),
    ],
)
def test_what_cannot_be_compared_is_refused(first: Tensor, second: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ssim(first, second)


def test_five_scales_need_a_picture_that_halves_four_times() -> None:
    with pytest.raises(ValueError, match="each side must have 176"):
        ms_ssim(pictures(side=175), pictures(side=175))
    assert ms_ssim(pictures(side=176), pictures(side=176)).shape == (2,)
