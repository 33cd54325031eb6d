"""Inception-v3: counts, the three differences to torchvision's, every knob."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from marmo.models.inception import INCEPTION_2015, INCEPTION_TOY, Branches, Inception
from marmo.nn.blueprint import blueprint


def toy(**changes: int) -> Inception:
    torch.manual_seed(0)
    return Inception(replace(INCEPTION_TOY, **changes)).eval().requires_grad_(False)


def test_published_parameter_count() -> None:
    """torchvision's 27,161,264 less its second head (3,326,696) and its last layer (2,049,000), plus one of 1008."""
    with blueprint():
        network = Inception(INCEPTION_2015)
    trunk = sum(weight.numel() for name, weight in network.named_parameters() if not name.startswith("head"))
    assert trunk == 27_161_264 - 3_326_696 - 2_049_000 == 21_785_568
    assert sum(weight.numel() for weight in network.head.parameters()) == 2048 * 1008 + 1008


def test_pools_at_the_border_average_what_is_there_and_the_last_block_takes_the_largest() -> None:
    blocks = [block for block in toy().blocks if isinstance(block, Branches)]
    pools = [branch[0] for block in blocks for branch in block.branches if isinstance(branch, nn.Sequential)]
    pools = [pool for pool in pools if isinstance(pool, nn.AvgPool2d | nn.MaxPool2d)]
    ones = torch.ones(1, 1, 5, 5)
    assert [type(pool) for pool in pools] == [nn.AvgPool2d] * 8 + [nn.MaxPool2d]
    assert all(torch.equal(pool(ones), ones) for pool in pools)


@pytest.mark.parametrize(("unit", "width"), [(1, 128), (2, 256)])
def test_a_picture_becomes_as_many_numbers_as_the_config_says(unit: int, width: int) -> None:
    network = toy(unit=unit)
    assert network.config.width == width
    assert network(torch.randn(2, 3, 299, 299)).shape == (2, width)
    assert network(torch.randn(1, 3, 96, 120)).shape == (1, width)
    assert network.head.weight.shape == (5, width)
    assert toy(num_classes=7).head.weight.shape == (7, 128)


def test_features_do_not_depend_on_the_batch() -> None:
    network, pixels = toy(), torch.randn(3, 3, 90, 90)
    alone = torch.cat([network(pixels[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(pixels), alone, atol=1e-5 * float(alone.abs().max()))
