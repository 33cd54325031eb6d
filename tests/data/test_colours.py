"""Recolouring lands on its target, leaves other hues alone and knows no seam at red."""

import pytest
import torch

from marmo.data.colours import COLOURS, in_cluster, recolour, targets, to_oklab, to_rgb


def test_oklab_is_its_own_inverse() -> None:
    rgb = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(to_rgb(to_oklab(rgb)), rgb, atol=2e-4)


def test_known_values() -> None:
    """From Ottosson's page: white is (1, 0, 0); red in sRGB has lightness 0.628."""
    assert torch.allclose(to_oklab(torch.ones(3)), torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert to_oklab(torch.tensor([1.0, 0, 0]))[0] == pytest.approx(0.628, abs=1e-3)


def test_the_middle_of_a_cluster_becomes_the_target() -> None:
    centre = torch.tensor([[0.2, 0.5, 0.9]]).expand(len(COLOURS), 3)
    got = recolour(centre[:, None], to_oklab(centre), targets())[:, 0]
    wanted = torch.tensor([colour.rgb for colour in COLOURS.values()]) / 255
    assert torch.allclose(got, wanted, atol=3e-3)


def test_grey_and_other_hues_stay() -> None:
    rgb = torch.tensor([[[0.5, 0.5, 0.5], [0.1, 0.7, 0.2], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    got = recolour(rgb, to_oklab(torch.tensor([[0.8, 0.1, 0.1]])), targets()[4:5])
    assert torch.allclose(got, rgb, atol=1e-4)


def test_red_has_no_seam() -> None:
    """Pixels on both sides of hue 0 belong to a red cluster alike."""
    lab = torch.tensor([[0.6, 0.2, 0.03], [0.6, 0.2, -0.03]])
    weight = in_cluster(lab, torch.tensor([0.6, 0.2, 0.0]))
    assert weight.flatten().tolist() == [1.0, 1.0]


def test_shadows_stay_darker() -> None:
    shades = torch.tensor([[[0.3, 0.05, 0.05], [0.8, 0.1, 0.1], [0.95, 0.5, 0.5]]])
    got = to_oklab(recolour(shades, to_oklab(shades[:, 1]), targets()[4:5]))[0, :, 0]
    assert got[0] < got[1] < got[2]
