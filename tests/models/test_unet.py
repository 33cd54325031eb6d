"""The U-Net: sizes of the real ones, wiring, the clock, and contexts that are projected once."""

from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from marmo.models.unet import (
    SD1,
    SD1_EDIT,
    SD1_INPAINT,
    SD1_TOY,
    SD2,
    SD2_INPAINT,
    SDXL,
    SDXL_REFINER,
    UNet,
    UNetConfig,
)
from marmo.weights.keymap import shapes

TOY = replace(SD1_TOY, channels=(32, 64), depths=(1, 2), num_heads=(2, 4), context_width=24)

KNOBS = {
    "in_channels": 9,
    "out_channels": 8,
    "channels": (32, 96),
    "depths": (0, 2),
    "num_heads": (4, 4),
    "context_width": 16,
    "num_res_blocks": 2,
    "num_groups": 16,
    "mid_depth": 2,
    "vector_width": 8,
    "num_labels": 10,
    "prompt_alone": (False, True),
}


def meta(config: UNetConfig) -> UNet:
    with torch.device("meta"):
        return UNet(config)


def toy(config: UNetConfig = TOY) -> UNet:
    torch.manual_seed(0)
    return UNet(config).requires_grad_(False)


def inputs(config: UNetConfig = TOY, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and the tokens of a prompt."""
    torch.manual_seed(1)
    x, tokens = torch.randn(batch, config.in_channels, 8, 4), torch.randn(batch, 5, config.context_width)
    return x, torch.arange(batch) * 300.0 + 100, tokens


@pytest.mark.long
@pytest.mark.parametrize(
    "config, num_parameters",
    [
        (SD1, 859_520_964),
        (SD1_INPAINT, 859_535_364),
        (SD1_EDIT, 859_532_484),
        (SD2, 865_910_724),
        (SD2_INPAINT, 865_925_124),
        (SDXL, 2_567_463_684),
        (SDXL_REFINER, 2_259_526_660),
        (replace(SD1, context_width=1280), 872_300_484),  # the LDM of 1.45 billion
    ],
)
def test_real_sizes(config: UNetConfig, num_parameters: int) -> None:
    assert sum(weight.numel() for weight in meta(config).parameters()) == num_parameters


@pytest.mark.long
def test_a_picture_of_512_pixels() -> None:
    unet = meta(SD1)
    with torch.device("meta"):
        context = unet.project(torch.empty(1, 77, 768))
        assert unet(torch.empty(2, 4, 64, 64), torch.empty(2), context).shape == (2, 4, 64, 64)
    assert len(context) == 16
    assert {keys.shape[1:] for keys, _ in context} == {(8, 77, 40), (8, 77, 80), (8, 77, 160)}


def test_the_finest_level_eats_640_channels_and_a_skip_of_320() -> None:
    stage = meta(SD1).up[3].stages[0]
    assert stage.res.conv1.in_channels == 320 + 640


def test_every_skip_is_eaten() -> None:
    unet = meta(SD1)
    grown = [stage.res.conv1.in_channels for level in unet.up for stage in level.stages]
    assert grown == [2560, 2560, 2560, 2560, 2560, 1920, 1920, 1280, 960, 960, 640, 640]


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 16, 8)])
def test_the_output_has_the_size_of_the_input(shape: tuple[int, ...]) -> None:
    unet = toy(replace(TOY, out_channels=6))
    result = unet(torch.randn(shape), torch.zeros(shape[0]), unet.project(torch.randn(1, 5, 24)))
    assert result.shape == (shape[0], 6, *shape[2:])


def test_a_knob_for_every_field() -> None:
    assert KNOBS.keys() == {field.name for field in fields(UNetConfig)}


@pytest.mark.long
@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_something(knob: str) -> None:
    unet, other = toy(), toy(replace(TOY, **{knob: KNOBS[knob]}))
    if shapes(unet) == shapes(other):
        other.load_state_dict(unet.state_dict())
        x, t, tokens = inputs()
        assert not torch.allclose(unet(x, t, unet.project(tokens)), other(x, t, other.project(tokens)), atol=1e-4)


def test_projecting_once_equals_projecting_at_every_step() -> None:
    unet, (x, _, tokens) = toy(), inputs()
    context = unet.project(tokens)
    for t in (torch.tensor([900.0, 900.0]), torch.tensor([10.0, 10.0])):
        assert torch.equal(unet(x, t, context), unet(x, t, unet.project(tokens)))


def test_a_context_of_one_serves_a_batch() -> None:
    unet, (x, t, tokens) = toy(), inputs(batch=3)
    once = unet(x, t, unet.project(tokens[:1]))
    repeated = unet(x, t, unet.project(tokens[:1].repeat(3, 1, 1)))
    torch.testing.assert_close(once, repeated, rtol=1e-5, atol=1e-5)


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    unet, (x, t, tokens) = toy(), inputs()
    together = unet(x, t, unet.project(tokens))
    for row in range(2):
        alone = unet(x[row : row + 1], t[row : row + 1], unet.project(tokens[row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_the_prompt_is_heard() -> None:
    unet, (x, t, tokens) = toy(), inputs()
    before = unet(x, t, unet.project(tokens))
    tokens[:, 3] += 1
    assert not torch.allclose(before, unet(x, t, unet.project(tokens)), atol=1e-4)


def test_tokens_have_no_order_of_their_own() -> None:
    """Where a word stands is told by the text encoder, inside its states."""
    unet, (x, t, tokens) = toy(), inputs()
    turned = unet(x, t, unet.project(tokens.flip(1)))
    torch.testing.assert_close(unet(x, t, unet.project(tokens)), turned, rtol=1e-5, atol=1e-5)


def test_the_clock_is_heard_between_its_ticks() -> None:
    unet, (x, _, tokens) = toy(), inputs()
    results = [unet(x, torch.full((2,), t), unet.project(tokens)) for t in (500.0, 500.5, 501.0)]
    steps = [(later - earlier).abs().max() for earlier, later in pairwise(results)]
    assert min(steps) > 1e-5


def test_the_middle_attends_where_the_coarsest_level_does_not() -> None:
    unet = meta(SD1)
    assert all(stage.transformer is None for stage in unet.down[3].stages)
    assert isinstance(unet.mid.transformer, nn.Module)


def test_the_vector_is_heard() -> None:
    config = replace(TOY, vector_width=8)
    unet, (x, t, tokens) = toy(config), inputs()
    context = unet.project(tokens)
    vector = torch.randn(2, 8)
    plain, other = unet(x, t, context, vector), unet(x, t, context, vector + 1)
    assert not torch.allclose(plain, other, atol=1e-4)
    alone = unet(x, t, context, vector[:1])
    torch.testing.assert_close(alone[:1], plain[:1], rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_bfloat16() -> None:
    unet, (x, t, tokens) = toy().bfloat16(), inputs()
    assert unet(x.bfloat16(), t, unet.project(tokens.bfloat16())).dtype == torch.bfloat16
