"""The resize rules: what each is, and that they are not each other.  tests/parity/ holds them to their programs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.evaluate.resize import RULES, Rule

STRETCHING = [rule for name, rule in RULES.items() if name not in ("square", "clip")]
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def picture(height: int, width: int) -> Tensor:
    """Smooth, with some noise: uint8 3 H W."""
    draw = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 7, 7, generator=draw), (height, width), mode="bicubic")[0]
    return ((coarse + 0.1 * torch.randn(coarse.shape, generator=draw)) * 255).clamp(0, 255).byte()


@every_rule
@pytest.mark.parametrize("size", [(40, 40), (64, 24), (9, 30), (1, 1)])
def test_a_square_of_floats_in_range(rule: Rule, size: tuple[int, int]) -> None:
    made = rule(picture(*size), 16)
    assert made.shape == (3, 16, 16)
    assert made.dtype is torch.float32
    if rule is not RULES["torch"]:  # bicubic shoots over, and EDM2 lets it
        assert 0 <= made.min() <= made.max() <= 255


@every_rule
def test_one_colour_stays_and_a_picture_of_the_right_size_stays(rule: Rule) -> None:
    flat = torch.tensor([10, 200, 255], dtype=torch.uint8)[:, None, None].expand(3, 30, 20)
    assert torch.allclose(rule(flat, 12), flat[:, :1, :1].expand(3, 12, 12).float(), atol=1e-3)
    same = picture(24, 24)
    assert torch.allclose(rule(same, 24), same.float(), atol=1e-3)


def test_the_rules_differ() -> None:
    """Some of them by less than a level, and every one of them matters for a distance."""
    made = [rule(picture(90, 60), 32) for rule in RULES.values()]
    for first in range(len(made)):
        for second in range(first):
            assert (made[first] - made[second]).abs().max() > 0.1, (list(RULES)[first], list(RULES)[second])


@pytest.mark.parametrize("size", [(80, 50), (20, 13)])
def test_clean_is_pillow_without_rounding_and_torch_imitates_it(size: tuple[int, int]) -> None:
    calm = picture(*size) // 2 + 60  # Pillow rounds, and cuts at 0 and 255, after either axis
    exact = RULES["clean"](calm, 32)
    assert 0.1 < (RULES["pillow"](calm, 32) - exact).abs().max() <= 1.5
    assert (RULES["torch"](calm, 32) - exact).abs().max() <= 0.01


def test_tensorflow_samples_the_corners_of_pixels() -> None:
    """Of a ramp, sample i is i * H / S, and nothing lies beyond the last pixel."""
    ramp = torch.arange(0, 20, dtype=torch.uint8).expand(3, 20, 20)
    expected = (torch.arange(12) * 20 / 12).clamp(max=19).expand(3, 12, 12)
    assert torch.allclose(RULES["tensorflow"](ramp, 12), expected, atol=1e-5)
    assert torch.allclose(RULES["tensorflow"](ramp.transpose(1, 2), 12), expected.transpose(1, 2), atol=1e-5)
    centred = ((torch.arange(12) + 0.5) * 20 / 12 - 0.5).clamp(0, 19).expand(3, 12, 12)
    assert torch.allclose(RULES["pytorch-fid"](ramp, 12), centred, atol=1e-5)


@pytest.mark.parametrize("rule", [RULES["square"], RULES["clip"]])
@pytest.mark.parametrize("turned", [False, True])
def test_cutting_rules_keep_the_middle(rule: Rule, turned: bool) -> None:
    wide = torch.zeros(3, 20, 60, dtype=torch.uint8)
    wide[:, :, 20:40] = 250
    made = rule(wide.transpose(1, 2) if turned else wide, 20)
    assert torch.equal(made, torch.full((3, 20, 20), 250.0))


def test_square_is_pillow_of_the_middle() -> None:
    wide, tall = picture(40, 71), picture(71, 40)
    assert torch.equal(RULES["square"](wide, 16), RULES["pillow"](wide[:, :, 15:55], 16))
    assert torch.equal(RULES["square"](tall, 16), RULES["pillow"](tall[:, 15:55], 16))
