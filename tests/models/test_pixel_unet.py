"""The pixel U-Net: shapes, the conventions' difference, dropout in training alone."""

from dataclasses import replace

import pytest
import torch

from marmo.models.pixel_unet import PIXEL_TOY, PixelUNet
from marmo.nn.embed import sinusoidal_2020


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("convention", ["ho", "diffusers"])
def test_a_picture_keeps_its_shape(x: torch.Tensor, convention: str) -> None:
    network = PixelUNet(replace(PIXEL_TOY, convention=convention, out_channels=6))  # type: ignore[arg-type]
    assert network(x, torch.tensor([0.0, 999.0])).shape == (2, 6, 16, 8)


def test_it_hears_the_time(x: torch.Tensor) -> None:
    network = PixelUNet(PIXEL_TOY).eval()
    with torch.no_grad():
        early, late = network(x, torch.tensor([3.0, 3.0])), network(x, torch.tensor([3.0, 900.0]))
    assert torch.allclose(early[0], late[0], atol=1e-6) and not torch.allclose(early[1], late[1], atol=1e-3)


def test_dropout_acts_in_training_alone(x: torch.Tensor) -> None:
    network, t = PixelUNet(replace(PIXEL_TOY, dropout=0.5)), torch.tensor([5.0, 5.0])
    with torch.no_grad():
        assert not torch.equal(network(x, t), network(x, t))
        network.eval()
        assert torch.equal(network(x, t), network(x, t))
    plain = PixelUNet(PIXEL_TOY)
    assert plain.state_dict().keys() == network.state_dict().keys()


def test_the_clock_is_that_of_2020() -> None:
    """nn.py in hojonathanho/diffusion: sin, then cos, at 10000^(-i / (half - 1))."""
    code = sinusoidal_2020(torch.tensor([7.0]), 6)[0]
    angles = 7 * torch.tensor([1.0, 10_000**-0.5, 1e-4])
    assert torch.allclose(code, torch.cat([angles.sin(), angles.cos()]), atol=1e-6)
