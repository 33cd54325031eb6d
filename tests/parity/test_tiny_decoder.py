"""The tiny decoder against diffusers' AutoencoderTiny and against TAESD's own layout.

Every tensor is drawn from a normal, biases too, so that no wrong wire can hide behind a zero.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from marmo.models.tiny_decoder import TAESD, TinyDecoder, TinyDecoderConfig
from marmo.weights.folders import open_part
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.maps.tiny_decoder import config_from_json, config_from_taesd, diffusers, taesd
from marmo.weights.store import Tensors, from_state, open_file, write

peers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIGS = [
    replace(TAESD, channels=16),
    TinyDecoderConfig(latent_channels=16, channels=8, num_upsamples=2, num_blocks=1),
]
SIZES = [(1, 4, 4), (2, 3, 5)]

every_config = pytest.mark.parametrize("config", CONFIGS)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"relative error {error:.1e}")
    assert ours.shape == theirs.shape
    assert error <= tolerance
    assert theirs.std() > 0.1 * theirs.abs().max()  # it says something


def drawn(module: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.data = torch.randn(weight.shape, generator=draw) * 0.1
    return module.eval().requires_grad_(False)


def peer_of(config: TinyDecoderConfig) -> nn.Module:
    return drawn(
        peers.AutoencoderTiny(
            latent_channels=config.latent_channels,
            encoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            decoder_block_out_channels=(config.channels,) * (config.num_upsamples + 1),
            num_decoder_blocks=(*[config.num_blocks] * config.num_upsamples, 1),
        )
    )


def filled(config: TinyDecoderConfig, tensors: Tensors) -> TinyDecoder:
    with torch.device("meta"):
        decoder = TinyDecoder(config)
    fill(decoder, tensors, torch.float32, torch.device("cpu"))
    return decoder


def assert_equal_networks(ours: nn.Module, theirs: nn.Module, latent_channels: int) -> None:
    for batch, height, width in SIZES:
        z = torch.randn(batch, latent_channels, height, width, generator=torch.Generator().manual_seed(1)) * 2
        z.requires_grad_()
        our_y, their_y = ours(z), theirs(z)
        assert_close(our_y, their_y)
        up = torch.randn(their_y.shape, generator=torch.Generator().manual_seed(2))
        (our_gradient,), (their_gradient,) = (torch.autograd.grad(y, z, up) for y in (our_y, their_y))
        assert_close(our_gradient, their_gradient, 1e-4)


class Decoded(nn.Module):
    """What diffusers' pipelines see of an AutoencoderTiny."""

    def __init__(self, peer: nn.Module) -> None:
        super().__init__()
        self.peer = peer

    def forward(self, z: Tensor) -> Tensor:
        return self.peer.decode(z).sample


@every_config
def test_ours_opens_theirs(config: TinyDecoderConfig, tmp_path: Path) -> None:
    peer = peer_of(config)
    peer.save_pretrained(tmp_path)
    read = config_from_json(json.loads((tmp_path / "config.json").read_text()))
    assert read == config
    ours = to_ours(diffusers(read), open_part(tmp_path), shapes(TinyDecoder(read)), "the tiny decoder")
    assert_equal_networks(filled(read, ours), Decoded(peer), config.latent_channels)


@every_config
def test_theirs_opens_ours(config: TinyDecoderConfig) -> None:
    decoder, peer = drawn(TinyDecoder(config)), peer_of(config)
    theirs = to_theirs(diffusers(config), from_state(decoder.state_dict()))
    encoder = {name: tensor for name, tensor in peer.state_dict().items() if name.startswith("encoder.")}
    peer.load_state_dict({name: 0.5 * theirs.read(name) for name in theirs.infos} | encoder)
    with pytest.raises(AssertionError):
        assert_equal_networks(decoder, Decoded(peer), config.latent_channels)
    peer.load_state_dict({name: theirs.read(name) for name in theirs.infos} | encoder)
    assert_equal_networks(decoder, Decoded(peer), config.latent_channels)


def test_the_real_size() -> None:
    with torch.device("meta"):
        ours, theirs = TinyDecoder(TAESD), peers.AutoencoderTiny().decoder
    assert sum(x.numel() for x in ours.parameters()) == sum(x.numel() for x in theirs.parameters())


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.conv(x) + x)


class Signed(nn.Module):
    """Colours from [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def original(width: int) -> nn.Sequential:
    """`Decoder` as madebyollin/taesd has it in taesd.py; colours in [0, 1]."""

    def level() -> list[nn.Module]:
        doubling = [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        return [Block(width), Block(width), Block(width), *doubling]

    first, last = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
    return nn.Sequential(Clamp(), first, nn.ReLU(), *level(), *level(), *level(), Block(width), last)


def test_taesds_own_file(tmp_path: Path) -> None:
    peer = drawn(original(16))
    write(tmp_path / "taesd_decoder.safetensors", from_state(peer.state_dict()))
    theirs = open_file(tmp_path / "taesd_decoder.safetensors")
    config = config_from_taesd(theirs.infos)
    assert config == replace(TAESD, channels=16)
    ours = to_ours(taesd(config), theirs, shapes(TinyDecoder(config)), "the tiny decoder")
    assert_equal_networks(filled(config, ours), nn.Sequential(peer, Signed()), 4)
    assert to_theirs(taesd(config), ours).infos == theirs.infos
