"""The tiny decoder: its size, shapes, and every knob."""

from dataclasses import fields, replace

import pytest
import torch

from marmo.models.tiny_decoder import TAESD, TinyDecoder, TinyDecoderConfig
from marmo.weights.keymap import shapes

TOY = TinyDecoderConfig(latent_channels=4, channels=8, num_upsamples=2, num_blocks=1)

KNOBS = {"latent_channels": 16, "channels": 16, "num_upsamples": 3, "num_blocks": 2}


def test_real_size() -> None:
    with torch.device("meta"):
        decoder = TinyDecoder(TAESD)
        assert sum(weight.numel() for weight in decoder.parameters()) == 1_222_531
        assert decoder(torch.empty(2, 4, 64, 48)).shape == (2, 3, 512, 384)


@pytest.mark.parametrize("shape", [(1, 4, 3, 3), (2, 4, 2, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert TinyDecoder(TOY)(torch.randn(shape)).shape == (shape[0], 3, 4 * shape[2], 4 * shape[3])


def test_a_knob_for_every_field() -> None:
    assert KNOBS.keys() == {field.name for field in fields(TinyDecoderConfig)}


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_something(knob: str) -> None:
    assert shapes(TinyDecoder(TOY)) != shapes(TinyDecoder(replace(TOY, **{knob: KNOBS[knob]})))


def test_wild_latents_are_tamed() -> None:
    """The clamp: beyond about three standard deviations nothing changes."""
    torch.manual_seed(0)
    decoder, z = TinyDecoder(TOY).requires_grad_(False), torch.ones(1, 4, 2, 2)
    torch.testing.assert_close(decoder(100 * z), decoder(1000 * z))
    assert not torch.allclose(decoder(z), decoder(3 * z))
