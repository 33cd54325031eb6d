"""DINOv2: counts, sizes, positions, every knob."""

from dataclasses import fields, replace

import pytest
import torch

from marmo.models.dinov2 import (
    DINOV2_TOY,
    VIT_B_14,
    VIT_L_14,
    VIT_S_14,
    DinoV2,
    DinoV2Config,
    with_registers,
)
from marmo.nn.blueprint import blueprint
from marmo.weights.keymap import shapes


def toy(config: DinoV2Config = DINOV2_TOY) -> DinoV2:
    torch.manual_seed(0)
    network = DinoV2(config).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape) * 0.3
    return network


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (VIT_S_14, 22_056_576),
        (VIT_B_14, 86_580_480),
        (VIT_L_14, 304_368_640),
        (with_registers(VIT_B_14), 86_583_552),
        (with_registers(VIT_L_14), 304_372_736),
    ],
)
def test_published_parameter_counts(config: DinoV2Config, count: int) -> None:
    with blueprint():
        network = DinoV2(config)
    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize("shape", [(1, 3, 18, 16), (1, 1, 16, 16), (3, 16, 16)])
def test_pictures_that_do_not_divide_into_patches_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width], the last two multiples of 4"):
        toy()(torch.zeros(shape))


KNOBS = {
    "width": 48,
    "num_layers": 1,
    "num_heads": 4,
    "patch_size": 2,
    "image_size": 24,
    "num_registers": 2,
    "mlp_ratio": 2,
    "resampling": "plain",
}


def test_every_field_of_the_config_has_a_knob_test() -> None:
    assert set(KNOBS) == {field.name for field in fields(DINOV2_TOY)}


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_changes_something(name: str) -> None:
    network, changed = toy(), DinoV2(replace(DINOV2_TOY, **{name: KNOBS[name]}))
    if shapes(changed) == shapes(network):
        changed.load_state_dict(network.state_dict())
        pixels = torch.randn(2, 3, 16, 16)
        assert not torch.allclose(network(pixels), changed(pixels), atol=1e-3)


@pytest.mark.parametrize("resampling", ["offset", "plain", "antialiased"])
def test_stored_positions_are_taken_as_they_are(resampling: str) -> None:
    """At the size of the training all ways of resampling are one; at others they differ."""
    whole, part = torch.randn(1, 3, 20, 20), torch.randn(1, 3, 16, 16)
    other = toy(replace(DINOV2_TOY, resampling=resampling))
    assert torch.equal(other(whole), toy()(whole))
    assert torch.allclose(other(part), toy()(part)) == (resampling == "offset")


def test_a_picture_may_be_no_square() -> None:
    assert toy()(torch.randn(2, 3, 16, 28)).shape == (2, 32)
