"""Disturbances do what they say, and what is empty is empty."""

import pytest
import torch

from marmo.evaluate.disturb import blobs, blurred, disturbed, noisy, shuffled_tiles, squeezed


@pytest.fixture
def pictures() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(6, 3, 64, 64) * 2 - 1


def test_a_blur_keeps_the_mean_and_lowers_the_contrast(pictures):
    soft = blurred(pictures, 2.0)
    assert soft.shape == pictures.shape
    assert (soft.mean() - pictures.mean()).abs() < 0.01 and soft.std() < 0.3 * pictures.std()
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert torch.allclose(blurred(flat), flat, atol=1e-6)


def test_a_blurred_point_is_a_gaussian():
    point = torch.full((1, 3, 33, 33), 0.0)
    point[..., 16, 16] = 1
    spot = blurred(point, 1.5)[0, 0]
    assert spot[16, 16] / spot[16, 19] == pytest.approx(2.718281828**2, rel=1e-3)  # exp(3**2 / (2 * 1.5**2))


def test_noise_has_its_amount():
    grey = torch.zeros(1, 3, 128, 128)
    assert noisy(grey, 0.2).std().item() == pytest.approx(0.2, rel=0.03)
    assert noisy(grey, 9.0).abs().max() <= 1


def test_squeezing_keeps_slow_waves_and_loses_fast_ones(pictures):
    assert torch.allclose(squeezed(pictures, 15), pictures, atol=1e-5), "all waves are the picture"
    once = squeezed(0.3 * pictures, 4)
    assert torch.allclose(squeezed(once, 4), once, atol=1e-5), "it is a projection"
    flat = torch.full((1, 3, 16, 16), -0.7)
    assert torch.allclose(squeezed(flat, 1), flat, atol=1e-6)
    assert squeezed(pictures, 2).std() < 0.5 * pictures.std()


def test_shuffled_tiles_are_the_same_tiles(pictures):
    mixed = shuffled_tiles(pictures)
    assert torch.equal(mixed.flatten().sort().values, pictures.flatten().sort().values)
    assert not torch.equal(mixed, pictures)
    tiles = {tile.sum().item() for tile in mixed[0].unfold(1, 16, 16).unfold(2, 16, 16).flatten(1, 2).unbind(1)}
    assert len(tiles) == 16


def test_disturbed_pictures_are_pictures(pictures):
    torch.manual_seed(1)
    changed = disturbed(pictures.repeat(8, 1, 1, 1))
    assert changed.shape == (48, 3, 64, 64) and changed.abs().max() <= 1
    distance = (changed - pictures.repeat(8, 1, 1, 1)).abs().mean((1, 2, 3))
    assert distance.max() > 0.3 and distance.min() < 0.1, "some much, some hardly"


def test_blobs_differ_from_one_another():
    torch.manual_seed(2)
    stains = blobs(9, 48)
    assert stains.shape == (9, 3, 48, 48) and stains.abs().max() <= 1
    assert len({round(stain.mean().item(), 5) for stain in stains}) == 9
