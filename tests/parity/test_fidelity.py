"""PSNR, SSIM and MS-SSIM against torchmetrics and pytorch-msssim."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.evaluate.fidelity import WINDOW, ms_ssim, psnr, ssim

peer = pytest.importorskip("torchmetrics.functional.image")
msssim = pytest.importorskip("pytorch_msssim")

pytestmark = pytest.mark.parity


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(2, 3, 9, 9, generator=draw), (height, width), mode="bicubic")
    first = (coarse * 255 + 4 * torch.randn(coarse.shape, generator=draw)).clamp(0, 255).byte()
    second = (0.9 * first + 12 * torch.randn(coarse.shape, generator=draw)).clamp(0, 255).byte()
    return first, second


@pytest.mark.parametrize("size", [(40, 70), (33, 12)])
def test_psnr(size: tuple[int, int]) -> None:
    x, y = pair(*size)
    told = [peer.peak_signal_noise_ratio(a.double(), b.double(), data_range=255.0) for a, b in zip(x, y, strict=True)]
    assert torch.allclose(psnr(x, y), torch.stack(told), rtol=1e-6)


@pytest.mark.parametrize("size", [(40, 70), (33, 12)])
def test_ssim(size: tuple[int, int]) -> None:
    """torchmetrics pads by reflection; where its windows lie inside, its map is ours."""
    x, y = pair(*size)
    _, whole = peer.structural_similarity_index_measure(
        x.double(), y.double(), data_range=255.0, return_full_image=True
    )
    edge = WINDOW // 2
    inside = whole[:, :, edge:-edge, edge:-edge].mean(dim=(1, 2, 3))
    assert torch.allclose(ssim(x, y), inside, rtol=1e-6)
    told = msssim.ssim(x.double(), y.double(), data_range=255, size_average=False)
    assert torch.allclose(ssim(x, y), told.double(), rtol=1e-5)


@pytest.mark.parametrize("size", [(176, 192), (192, 240)])
def test_ms_ssim(size: tuple[int, int]) -> None:
    x, y = pair(*size)
    told = msssim.ms_ssim(x.double(), y.double(), data_range=255, size_average=False)
    assert torch.allclose(ms_ssim(x, y), told.double(), rtol=1e-5)
    assert (told < 0.97).all()
