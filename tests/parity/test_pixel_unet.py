"""The U-Net of pixel diffusion against diffusers' UNet2DModel, through real files both ways; and its pictures.

Every tensor is drawn from a normal, norms and biases too, so that no wrong wire can hide behind a zero.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from marmo.models.pixel_unet import CIFAR, DIGITS, PIXEL_TOY, PixelUNet, PixelUNetConfig
from marmo.weights.folders import open_part
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.maps.pixel_unet import config_from_json, config_to_json, diffusers
from marmo.weights.store import Tensors, from_state, write
from tests.parity.test_unet import assert_close, drawn

peers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIGS = {
    "toy": PIXEL_TOY,
    "digits": DIGITS,
    "diffusers' details": replace(PIXEL_TOY, convention="diffusers", head_width=8, side=16),
    "attention comes and goes": replace(
        PIXEL_TOY, channels=(16, 16, 32), attends=(True, False, True), num_res_blocks=2, dropout=0.1
    ),
}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def filled(config: PixelUNetConfig, tensors: Tensors) -> PixelUNet:
    with torch.device("meta"):
        unet = PixelUNet(config)
    fill(unet, tensors, torch.float32, torch.device("cpu"))
    return unet


def peer_of(config: PixelUNetConfig) -> nn.Module:
    return drawn(peers.UNet2DModel.from_config(config_to_json(config)))


@every_config
def test_outputs_are_diffusers(tmp_path: Path, config: PixelUNetConfig) -> None:
    peer = peer_of(config)
    peer.save_pretrained(tmp_path)
    read = config_from_json(json.loads((tmp_path / "config.json").read_text()))
    assert read == config
    tensors = to_ours(diffusers(config), open_part(tmp_path), shapes(PixelUNet(config)), "the U-Net")
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.in_channels, config.side, config.side, generator=draw)
    t = torch.tensor([731.0, 12.0])
    with torch.no_grad():
        assert_close(filled(config, tensors)(x, t), peer(x, t).sample)


@every_config
def test_what_is_written_opens_in_diffusers(tmp_path: Path, config: PixelUNetConfig) -> None:
    ours = drawn(PixelUNet(config))
    write(
        tmp_path / "diffusion_pytorch_model.safetensors",
        to_theirs(diffusers(config), from_state(ours.state_dict())),
        {"format": "pt"},
    )
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    peer = peers.UNet2DModel.from_pretrained(tmp_path)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(1, config.in_channels, config.side, config.side, generator=draw)
    with torch.no_grad():
        assert_close(ours(x, torch.tensor([3.0])), peer(x, torch.tensor([3.0])).sample)


def test_ddpm_of_cifar_has_its_parameters() -> None:
    with torch.device("meta"):
        ours = PixelUNet(CIFAR)
        theirs = peers.UNet2DModel.from_config(config_to_json(CIFAR))
    counts = [sum(weight.numel() for weight in network.parameters()) for network in (ours, theirs)]
    assert counts == [35_746_307, 35_746_307]
