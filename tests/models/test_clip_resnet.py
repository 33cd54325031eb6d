"""CLIP's ResNet: counts, shapes, where it strides, what each knob does."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from marmo.models.clip_resnet import RN50_IMAGE, ClipResNet
from marmo.weights.keymap import shapes

TINY = replace(RN50_IMAGE, width=4, depths=(1, 2, 1, 1), embed_width=10, image_size=64)


def test_published_parameter_count():
    with torch.device("meta"):
        network = ClipResNet(RN50_IMAGE)
    assert sum(weight.numel() for weight in network.parameters()) == 38_316_896
    assert RN50_IMAGE.num_heads == 32


@torch.no_grad()
def test_shapes():
    network, x = ClipResNet(TINY).eval(), torch.randn(2, 3, 64, 64)
    assert network(x).shape == (2, 10)
    x = network.stem(x)
    assert x.shape == (2, 4, 16, 16)
    for level, (channels, side) in zip(network.levels, [(16, 16), (32, 8), (64, 4), (128, 2)], strict=True):
        x = level(x)
        assert x.shape == (2, channels, side, side)


def test_only_the_first_convolution_strides():
    """The others average instead: anti-aliased."""
    network = ClipResNet(TINY)
    strided = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d) and part.stride != (1, 1)]
    assert strided == ["stem.conv1"]


@torch.no_grad()
def test_training_looks_at_the_batch_and_evaluation_does_not():
    torch.manual_seed(0)
    network, x = ClipResNet(TINY), torch.randn(3, 3, 64, 64)
    assert torch.allclose(network.eval()(x)[:1], network.eval()(x[:1]), atol=1e-5)
    assert not torch.allclose(network.train()(x)[:1], network.train()(x[:2])[:1], atol=1e-3)


KNOBS = {"width": 8, "depths": (1, 2, 2, 1), "embed_width": 12, "image_size": 96}


def test_every_field_has_a_knob_test():
    assert set(KNOBS) == {field.name for field in fields(TINY)}


@pytest.mark.long
@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_changes_something(name):
    assert shapes(ClipResNet(replace(TINY, **{name: KNOBS[name]}))) != shapes(ClipResNet(TINY))
