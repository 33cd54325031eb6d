"""The autoencoder against diffusers, through real files both ways, and CompVis's names through diffusers' converter.

Every tensor is drawn from a normal, norms and biases too, so that no wrong wire can hide behind a zero.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from marmo.models.vae import KL_F8_TOY, VAE, VAEConfig
from marmo.weights.folders import open_part
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.maps.vae import compvis, config_from_compvis, config_from_json, config_to_json, diffusers
from marmo.weights.store import Tensors, from_state, write

peers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIGS = {
    "kl-f8": KL_F8_TOY,
    "kl-f4": VAEConfig(
        channels=(16, 32, 32), latent_channels=3, latent_scale=0.25, num_res_blocks=2, num_groups=8
    ),
}  # fmt: skip
SIZES = [(1, 32, 32), (2, 32, 16)]

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"relative error {error:.1e}")
    assert ours.shape == theirs.shape
    assert error <= tolerance
    assert theirs.std() > 0.05 * theirs.abs().max()  # it says something


def drawn(module: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        centre = 1.0 if weight.ndim == 1 and weight.mean() == 1 else 0.0  # the factors of a norm
        weight.data = centre + torch.randn(weight.shape, generator=draw) * (0.2 if weight.ndim == 1 else 0.08)
    return module.eval().requires_grad_(False)


def peer_of(config: VAEConfig) -> nn.Module:
    return drawn(peers.AutoencoderKL.from_config(config_to_json(config)))


def opened(folder: Path) -> VAE:
    config = config_from_json(json.loads((folder / "config.json").read_text()))
    return filled(config, to_ours(diffusers(config), open_part(folder), shapes(VAE(config)), "the autoencoder"))


def filled(config: VAEConfig, tensors: Tensors) -> VAE:
    with torch.device("meta"):
        vae = VAE(config)
    fill(vae, tensors, torch.float32, torch.device("cpu"))
    return vae


def assert_equal_functions(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x.requires_grad_()
    our_y, their_y = ours(x), theirs(x)
    assert_close(our_y, their_y)
    up = torch.randn(their_y.shape, generator=torch.Generator().manual_seed(2))
    (our_gradient,), (their_gradient,) = (torch.autograd.grad(y, x, up) for y in (our_y, their_y))
    assert_close(our_gradient, their_gradient, 1e-4)


def assert_equal_networks(vae: VAE, peer: nn.Module) -> None:
    draw = torch.Generator().manual_seed(1)
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height, width, generator=draw) * 2 - 1
        moments = vae.encode(x), peer.encode(x).latent_dist
        assert_close(moments[0].logvar, moments[1].logvar)
        assert_equal_functions(lambda x: vae.encode(x).mean, lambda x: peer.encode(x).latent_dist.mean, x)
        z = torch.randn(moments[0].mean.shape, generator=draw)
        assert_equal_functions(vae.decode, lambda z: peer.decode(z).sample, z)


@every_config
def test_ours_opens_theirs(config: VAEConfig, tmp_path: Path) -> None:
    peer = peer_of(config)
    peer.save_pretrained(tmp_path)
    vae = opened(tmp_path)
    assert vae.config == config
    assert_equal_networks(vae, peer)


@every_config
def test_theirs_opens_ours(config: VAEConfig, tmp_path: Path) -> None:
    vae = drawn(VAE(config))
    tensors = to_theirs(diffusers(config), from_state(vae.state_dict()))
    write(tmp_path / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    assert_equal_networks(vae, peers.AutoencoderKL.from_pretrained(tmp_path))


def test_both_open_the_names_of_2022(tmp_path: Path) -> None:
    """As in stabilityai/sd-vae-ft-mse."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    peer = peer_of(KL_F8_TOY)
    state = peer.state_dict()
    for new, old in names.items():
        state = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): x for name, x in state.items()}
    assert state.keys() != peer.state_dict().keys()
    write(tmp_path / "diffusion_pytorch_model.safetensors", from_state(state), {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(KL_F8_TOY)))
    vae = opened(tmp_path)
    assert_equal_networks(vae, peer)
    assert_equal_networks(vae, peers.AutoencoderKL.from_pretrained(tmp_path))


def test_samples_of_the_same_noise_are_the_same() -> None:
    peer = peer_of(KL_F8_TOY)
    ours = to_ours(diffusers(KL_F8_TOY), from_state(peer.state_dict()), shapes(VAE(KL_F8_TOY)), "the autoencoder")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    theirs = peer.encode(x).latent_dist.sample(torch.Generator().manual_seed(3))
    noise = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3))
    assert_close(filled(KL_F8_TOY, ours).encode(x).sample(noise), theirs)


@every_config
def test_diffusers_converts_what_we_write_for_compvis(config: VAEConfig) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    peer = peer_of(config)
    ours = to_ours(diffusers(config), from_state(peer.state_dict()), shapes(VAE(config)), "the autoencoder")
    written = to_theirs(compvis(config), ours)
    checkpoint = {f"first_stage_model.{name}": written.read(name) for name in written.infos}
    converted = convert_ldm_vae_checkpoint(checkpoint, config_to_json(config))
    assert converted.keys() == peer.state_dict().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in peer.state_dict().items())


def test_a_single_file_decodes_as_the_folder() -> None:
    peer = peer_of(KL_F8_TOY)
    ours = to_ours(diffusers(KL_F8_TOY), from_state(peer.state_dict()), shapes(VAE(KL_F8_TOY)), "the autoencoder")
    written = to_theirs(compvis(KL_F8_TOY), ours)
    config = config_from_compvis(written.infos)
    assert config == KL_F8_TOY
    vae = filled(config, to_ours(compvis(config), written, shapes(VAE(config)), "the autoencoder"))
    assert_equal_networks(vae, peer)
