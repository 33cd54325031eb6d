"""What a row of the U-Net is told: numbers beside the prompt, zeros in place of an empty negative one."""

import pytest
import torch

from marmo.models.unet import CODE_WIDTH, SDXL_TOY, UNet
from marmo.nn.embed import sinusoidal
from marmo.pipelines.conditions import Conditions, stack, told_numbers
from marmo.pipelines.text_encoders import Encoded
from marmo.request import ImageRequest, Told

PLAIN = ImageRequest(width=64, height=48, empty_negative="zeros")
WISHED = Told(
    original_width=30, original_height=20, crop_left=3, crop_top=2, target_width=300, target_height=200,
    score=9, negative_score=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(SDXL_TOY).requires_grad_(False)


def encoded(seed: int = 0) -> Encoded:
    draw = torch.Generator().manual_seed(seed)
    return Encoded(torch.randn(1, 77, 192, generator=draw), torch.randn(1, 128, generator=draw))


def test_by_default_the_picture_is_whole_and_liked():
    assert told_numbers("nothing", PLAIN, negative=False) == ()
    assert told_numbers("size", PLAIN, negative=True) == (48, 64, 0, 0, 48, 64)
    assert told_numbers("score", PLAIN, negative=False) == (48, 64, 0, 0, 6.0)
    assert told_numbers("score", PLAIN, negative=True) == (48, 64, 0, 0, 2.5)


def test_wishes_are_told():
    wished = PLAIN.model_copy(update={"told": WISHED})
    assert told_numbers("size", wished, negative=False) == (20, 30, 2, 3, 200, 300)
    assert told_numbers("score", wished, negative=False) == (20, 30, 2, 3, 9)
    assert told_numbers("score", wished, negative=True) == (20, 30, 2, 3, 1)


def test_the_vector_is_the_pooled_prompt_and_the_sinusoids_of_every_number(unet: UNet):
    condition = Conditions(unet, "size", PLAIN).of(encoded())
    assert condition.vector is not None and condition.vector.shape == (1, SDXL_TOY.vector_width)
    assert torch.equal(condition.vector[:, :128], encoded().pooled)
    codes = sinusoidal(torch.tensor([48.0, 64, 0, 0, 48, 64]), CODE_WIDTH)
    assert torch.equal(condition.vector[0, 128:].reshape(6, CODE_WIDTH), codes)


@pytest.mark.parametrize("convention", ["zeros", "encoded"])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_only_an_empty_negative_prompt_is_zeros(unet: UNet, convention: str, negative: bool, empty: bool):
    request = PLAIN.model_copy(update={"empty_negative": convention})
    condition = Conditions(unet, "size", request).of(encoded(), negative, empty)
    assert condition.vector is not None
    are_zeros = convention == "zeros" and negative and empty
    assert bool((condition.vector[:, :128] == 0).all()) == are_zeros
    assert all(bool((keys == 0).all()) == are_zeros for keys, _ in condition.context)  # no bias: zeros stay zeros


def test_a_stack_has_a_row_for_each(unet: UNet):
    conditions = Conditions(unet, "size", PLAIN)
    one, two = (conditions.of(encoded(seed)) for seed in (0, 1))
    both = stack([one, two])
    assert both.vector is not None and two.vector is not None
    assert torch.equal(both.vector[1:], two.vector)
    for (keys, values), (second_keys, second_values) in zip(both.context, two.context, strict=True):
        assert torch.equal(keys[1:], second_keys) and torch.equal(values[1:], second_values)
