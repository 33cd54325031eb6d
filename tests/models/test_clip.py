"""CLIP as a whole and its vision transformer: counts, shapes, the logits' formula, preprocessing."""

import math
from dataclasses import fields, replace

import pytest
import torch

from marmo.models.clip import PIXEL_MEAN, PIXEL_STD, RN50, VIT_B_32, VIT_L_14, Clip, ClipConfig, preprocess
from marmo.models.clip_resnet import RN50_IMAGE, ClipResNet
from marmo.models.clip_text import VIT_L_14_TEXT
from marmo.models.clip_vision import VIT_L_14_IMAGE, ClipVision
from marmo.weights.keymap import shapes

TEXT = replace(VIT_L_14_TEXT, width=16, num_layers=2, num_heads=2, vocab_size=50, context_length=7)
VISION = replace(VIT_L_14_IMAGE, width=24, num_layers=2, num_heads=3, patch_size=8, embed_width=10, image_size=32)
RESNET = replace(RN50_IMAGE, width=4, depths=(1, 1, 2, 1), embed_width=10, image_size=64)
IDS = torch.tensor([[48, 3, 5, 49, 49, 49, 49], [48, 7, 9, 11, 49, 0, 0], [48, 49, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(("config", "count"), [(VIT_L_14, 427_616_513), (VIT_B_32, 151_277_313), (RN50, 102_007_137)])
def test_published_parameter_counts(config, count):
    with torch.device("meta"):
        network = Clip(config)
    assert sum(weight.numel() for weight in network.parameters()) == count


@torch.no_grad()
@pytest.mark.parametrize(("image", "tower"), [(VISION, ClipVision), (RESNET, ClipResNet)])
def test_logits_are_scaled_cosines(image, tower):
    torch.manual_seed(0)
    network = Clip(ClipConfig(text=TEXT, image=image)).eval()
    pixels = torch.randn(2, 3, image.image_size, image.image_size)
    texts, images = network.encode_text(IDS), network.encode_image(pixels)
    assert isinstance(network.image, tower)
    assert texts.shape == (3, 10)
    assert images.shape == (2, 10)
    assert torch.allclose(texts.norm(dim=1), torch.ones(3))
    assert torch.allclose(images.norm(dim=1), torch.ones(2))
    logits = network(IDS, pixels)
    assert logits.shape == (2, 3)
    assert logits[1, 2].item() == pytest.approx((images[1] @ texts[2]).item() / 0.07, rel=1e-4)


def test_a_fresh_scale_is_the_published_one():
    assert Clip(ClipConfig(text=TEXT, image=VISION)).logit_scale.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize("shape", [(1, 3, 32, 40), (1, 1, 32, 32), (3, 32, 32)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"this CLIP takes \[batch, 3, 32, 32\]"):
        Clip(ClipConfig(text=TEXT, image=VISION)).encode_image(torch.zeros(shape))


KNOBS = {
    "width": 48,
    "num_layers": 1,
    "num_heads": 2,
    "patch_size": 4,
    "embed_width": 12,
    "image_size": 48,
    "activation": "gelu",
    "mlp_ratio": 2,
}


def test_every_field_of_the_vision_config_has_a_knob_test():
    assert set(KNOBS) == {field.name for field in fields(VISION)}


@torch.no_grad()
@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_of_the_vision_config_changes_something(name):
    torch.manual_seed(0)
    network, changed = ClipVision(VISION), ClipVision(replace(VISION, **{name: KNOBS[name]}))
    pixels = torch.randn(1, 3, 32, 32)
    if shapes(changed) == shapes(network):
        changed.load_state_dict(network.state_dict())
        assert not torch.allclose(network(pixels), changed(pixels), atol=1e-4)


def test_preprocess_normalises_each_colour():
    grey = preprocess(torch.zeros(2, 3, 20, 20), 8)
    assert grey.shape == (2, 3, 8, 8)
    for colour in range(3):
        expected = torch.full((2, 8, 8), (0.5 - PIXEL_MEAN[colour]) / PIXEL_STD[colour])
        assert torch.allclose(grey[:, colour], expected, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_preprocess_keeps_the_middle_of_the_longer_side(turned):
    pixels = -torch.ones(1, 3, 16, 48)
    pixels[..., 16:32] = 1
    bright = torch.tensor([(1 - mean) / std for mean, std in zip(PIXEL_MEAN, PIXEL_STD, strict=True)])
    made = preprocess(pixels.transpose(2, 3) if turned else pixels, 16)
    assert torch.allclose(made, bright[None, :, None, None].expand(1, 3, 16, 16), atol=1e-5)


def test_preprocess_stays_in_range():
    torch.manual_seed(0)
    made = preprocess(torch.rand(1, 3, 40, 40).round() * 2 - 1, 24)
    low = torch.tensor([-mean / std for mean, std in zip(PIXEL_MEAN, PIXEL_STD, strict=True)])
    assert (made.amin(dim=(0, 2, 3)) >= low - 1e-5).all()
