"""The patch discriminator: its size, its patches, its beginning."""

import pytest
import torch

from marmo.models.discriminator import Discriminator, DiscriminatorConfig


@pytest.mark.parametrize("depth, count", [(1, 136_513), (2, 663_361), (3, 2_765_633)])
def test_sizes(depth: int, count: int):
    """By hand: 16 w w' a convolution, a bias at both ends, two numbers a channel of a norm."""
    with torch.device("meta"):
        network = Discriminator(DiscriminatorConfig(depth=depth))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("depth, reach", [(1, 16), (2, 34), (3, 70)])
def test_an_answer_is_about_one_patch(depth: int, reach: int):
    network = Discriminator(DiscriminatorConfig(width=4, depth=depth)).eval()
    pixels = torch.randn(1, 3, 128, 128, requires_grad=True)
    answer = network(pixels)
    middle = answer.shape[2] // 2
    (gradient,) = torch.autograd.grad(answer[0, 0, middle, middle], pixels)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == reach


def test_it_begins_undecided():
    torch.manual_seed(0)
    assert Discriminator(DiscriminatorConfig())(torch.randn(2, 3, 64, 64)).abs().mean() < 1
