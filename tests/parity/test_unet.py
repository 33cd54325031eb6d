"""The U-Net against diffusers, through real files both ways, and CompVis's names through diffusers' converter.

Every tensor is drawn from a normal, norms and biases too, so that no wrong wire can hide behind a zero.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from marmo.models.unet import CODE_WIDTH, SD1_TOY, SD2_TOY, SDXL_REFINER_TOY, SDXL_TOY, UNet, UNetConfig
from marmo.nn.embed import sinusoidal
from marmo.weights.folders import open_part
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.maps.unet import compvis, config_from_compvis, config_from_json, config_to_json, diffusers
from marmo.weights.store import Tensors, from_state, write

peers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIGS = {
    "SD 1": SD1_TOY,
    "SD 2": SD2_TOY,
    "SDXL": SDXL_TOY,
    "SDXL's refiner": SDXL_REFINER_TOY,
    "inpainting": UNetConfig(
        in_channels=9, out_channels=4, channels=(32, 64, 64), depths=(0, 1, 2), num_heads=(2, 4, 8), context_width=24,
        num_res_blocks=2, num_groups=16, mid_depth=2,
    ),
    "pix2pix": UNetConfig(
        in_channels=8, out_channels=3, channels=(32, 32, 64), depths=(1, 0, 1), num_heads=(4, 4, 4), context_width=40,
        num_res_blocks=1,
    ),
}  # fmt: skip
SIZES = [(1, 16, 16), (2, 16, 8)]

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"relative error {error:.1e}")
    assert ours.shape == theirs.shape
    assert error <= tolerance
    assert theirs.std() > 0.1 * theirs.abs().max()  # it says something


def drawn(module: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        centre = 1.0 if weight.ndim == 1 and weight.mean() == 1 else 0.0  # the factors of a norm
        weight.data = centre + torch.randn(weight.shape, generator=draw) * (0.2 if weight.ndim == 1 else 0.1)
    return module.eval().requires_grad_(False)


def peer_of(config: UNetConfig) -> nn.Module:
    return drawn(peers.UNet2DConditionModel.from_config(config_to_json(config)))


def opened(folder: Path) -> UNet:
    config = config_from_json(json.loads((folder / "config.json").read_text()))
    return filled(config, to_ours(diffusers(config), open_part(folder), shapes(UNet(config)), "the U-Net"))


def filled(config: UNetConfig, tensors: Tensors) -> UNet:
    with torch.device("meta"):
        unet = UNet(config)
    fill(unet, tensors, torch.float32, torch.device("cpu"))
    return unet


def inputs(config: UNetConfig, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and the tokens of a prompt."""
    draw = torch.Generator().manual_seed(1)
    batch, height, width = size
    x = torch.randn(batch, config.in_channels, height, width, generator=draw)
    return x, torch.tensor([731.0, 12.0])[:batch], torch.randn(batch, 7, config.context_width, generator=draw)


def beside(config: UNetConfig, batch: int) -> tuple[Tensor | None, dict[str, Tensor]]:
    """What SDXL is told beside the prompt, for ours and for theirs."""
    if not config.vector_width:
        return None, {}
    draw = torch.Generator().manual_seed(3)
    pooled = torch.randn(batch, config.vector_width % CODE_WIDTH, generator=draw)
    numbers = torch.randint(0, 1024, (batch, config.vector_width // CODE_WIDTH), generator=draw).float()
    codes = sinusoidal(numbers.flatten(), CODE_WIDTH).reshape(batch, -1)
    return torch.cat([pooled, codes], dim=1), {"text_embeds": pooled, "time_ids": numbers}


def assert_equal_networks(unet: UNet, peer: nn.Module) -> None:
    for size in SIZES:
        x, t, tokens = inputs(unet.config, size)
        x.requires_grad_()
        vector, told = beside(unet.config, len(x))
        ours, theirs = unet(x, t, unet.project(tokens), vector), peer(x, t, tokens, added_cond_kwargs=told).sample
        assert_close(ours, theirs)
        up = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(2))
        (our_gradient,), (their_gradient,) = (torch.autograd.grad(y, x, up) for y in (ours, theirs))
        assert_close(our_gradient, their_gradient, 1e-4)


@every_config
def test_ours_opens_theirs(config: UNetConfig, tmp_path: Path) -> None:
    peer = peer_of(config)
    peer.save_pretrained(tmp_path)
    unet = opened(tmp_path)
    assert unet.config == config
    assert_equal_networks(unet, peer)


@every_config
def test_theirs_opens_ours(config: UNetConfig, tmp_path: Path) -> None:
    unet = drawn(UNet(config))
    tensors = to_theirs(diffusers(config), from_state(unet.state_dict()))
    write(tmp_path / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    assert_equal_networks(unet, peers.UNet2DConditionModel.from_pretrained(tmp_path))


@every_config
def test_what_we_write_has_their_shapes(config: UNetConfig) -> None:
    theirs = to_theirs(diffusers(config), from_state(UNet(config).state_dict()))
    assert {name: info.shape for name, info in theirs.infos.items()} == shapes(peer_of(config))


@every_config
def test_diffusers_converts_what_we_write_for_compvis(config: UNetConfig) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    peer = peer_of(config)
    ours = to_ours(diffusers(config), from_state(peer.state_dict()), shapes(UNet(config)), "the U-Net")
    written = to_theirs(compvis(config), ours)
    checkpoint = {f"model.diffusion_model.{name}": written.read(name) for name in written.infos}
    converted = convert_ldm_unet_checkpoint(checkpoint, config_to_json(config))
    assert converted.keys() == peer.state_dict().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in peer.state_dict().items())


def test_a_single_file_paints_as_the_folder() -> None:
    peer = peer_of(SD1_TOY)
    ours = to_ours(diffusers(SD1_TOY), from_state(peer.state_dict()), shapes(UNet(SD1_TOY)), "the U-Net")
    written = to_theirs(compvis(SD1_TOY), ours)
    config = config_from_compvis(written.infos)
    unet = filled(config, to_ours(compvis(config), written, shapes(UNet(config)), "the U-Net"))
    assert_equal_networks(unet, peer)
