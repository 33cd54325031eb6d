"""Nearest neighbours against plain loops, where float32 products would be wrong."""

import pytest
import torch

from marmo.evaluate import neighbours
from marmo.evaluate.neighbours import nearest, radii


@pytest.mark.parametrize("block", [1, 64, 2**23])
def test_neighbours_are_those_of_all_distances(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 5, generator=draw), torch.randn(30, 5, generator=draw)
    everything = (x[:, None].double() - y.double()).square().sum(-1).sqrt()
    expected, indices = everything.topk(4, largest=False)
    found = nearest(x, y, 4)
    torch.testing.assert_close(found[0], expected)
    assert found[1].tolist() == indices.tolist()


def test_a_copy_has_distance_0_however_far_from_the_origin():
    keys = 1e4 + torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    distances, indices = nearest(keys[[7, 30]], keys)
    assert distances[:, 0].tolist() == [0, 0]
    assert indices[:, 0].tolist() == [7, 30]


def test_nobody_is_their_own_neighbour_but_twins_are():
    x = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    distances, indices = nearest(x, x, same=True)
    assert distances[:, 0].tolist() == [1, 0, 0, 3]
    assert indices[1:3, 0].tolist() == [2, 1]
    assert radii(x, 3).tolist() == [4, 3, 3, 4]
