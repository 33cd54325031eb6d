"""The oracle: both architectures, cells and cut-outs."""

import pytest
import torch

from marmo.models.oracle import GUARD, RESIDUAL, Oracle, OracleConfig, cut_out, shrink


@pytest.mark.parametrize("config, count", [(RESIDUAL, 2_558_142), (GUARD, 930_822)], ids=["residual", "guard"])
def test_sizes(config: OracleConfig, count: int):
    with torch.device("meta"):
        oracle = Oracle(config)
    assert sum(weight.numel() for weight in oracle.parameters()) == count


@pytest.mark.parametrize("config", [RESIDUAL, GUARD], ids=["residual", "guard"])
@torch.no_grad()
def test_shapes(config: OracleConfig):
    oracle = Oracle(config).eval()
    cells = oracle.find(torch.rand(2, 3, 96, 128))
    assert (cells.logits.shape, cells.offset.shape, cells.size.shape) == ((2, 16, 16), (2, 2, 16, 16), (2, 2, 16, 16))
    assert cells.offset.min() >= 0 and cells.offset.max() <= 1
    assert (cells.logits.sigmoid() < 0.2).float().mean() > 0.9, "it begins without seeing things everywhere"
    names = oracle.name(torch.rand(5, 3, 48, 48))
    assert (names.look.shape, names.concept.shape, names.colour.shape) == ((5, 863, 3), (5, 864), (5, 12))


def test_a_cut_out_is_the_box_and_a_margin():
    """A picture whose red is x and whose green is y says itself where it was cut."""
    line = (torch.arange(128) + 0.5) / 128
    x, y = line.expand(128, 128), line[:, None].expand(128, 128)
    pictures = torch.stack([torch.stack([x, y, 0 * x]), torch.zeros(3, 128, 128)])
    cut = cut_out(pictures, torch.tensor([1, 0]), torch.tensor([[0.2, 0.2, 0.8, 0.8], [0.3, 0.4, 0.5, 0.7]]), 40)
    assert cut.shape == (2, 3, 40, 40) and cut[0].abs().max() == 0
    side = 1.16 * 0.3  # of the longer edge
    expected = (torch.arange(40) + 0.5) / 40 * side - side / 2
    assert torch.allclose(cut[1, 0, 7], 0.4 + expected, atol=1e-5)
    assert torch.allclose(cut[1, 1, :, 7], 0.55 + expected, atol=1e-5)


def test_a_cut_out_beyond_the_edge_goes_on_with_the_border():
    cut = cut_out(torch.ones(1, 3, 64, 64), torch.tensor([0]), torch.tensor([[-0.2, 0.5, 0.4, 1.3]]), 16)
    assert torch.allclose(cut, torch.ones_like(cut))


def test_shrinking_is_smooth_for_any_size():
    for side in (128, 100, 300):
        stripes = torch.ones(1, 3, side, side)
        stripes[..., ::2] = -1
        assert shrink(stripes, 64)[..., 8:-8].abs().max() < 0.3, "thin stripes are grey from afar"
