"""An autoencoder and a text encoder of a few thousand numbers, on disk, for the recipe between them."""

from dataclasses import replace
from pathlib import Path

import torch

from marmo.models.clip_text import ClipText, ClipTextConfig
from marmo.models.vae import VAE, VAEConfig
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.export import write_folder
from marmo.weights.forms import Network, written
from marmo.weights.store import from_state
from tests.recipes.shapes import shape

VAE_CONFIG = VAEConfig(channels=(8, 16, 16), latent_channels=4, latent_scale=1.0, num_res_blocks=1, num_groups=4)
TEXT_CONFIG = ClipTextConfig(width=32, num_layers=2, num_heads=2, context_length=16)


def write_parts(folder: Path) -> tuple[Path, Path]:
    """The folders of a VAE of factor 4 and of a text tower with a context of 16."""
    torch.manual_seed(0)
    return _alone(folder / "vae", "vae", _vae()), _alone(folder / "text", "text", ClipText(TEXT_CONFIG))


@torch.no_grad()
def _vae() -> VAE:
    """Sure of its latents, whose variance is 1 on drawn shapes."""
    vae, channels = VAE(VAE_CONFIG), VAE_CONFIG.latent_channels
    vae.to_moments.weight[channels:] = 0
    assert vae.to_moments.bias is not None
    vae.to_moments.bias[channels:] = -10
    mean = vae.encode(torch.stack([shape(place)[0] for place in range(32)])).mean
    vae.config = replace(VAE_CONFIG, latent_scale=1 / float(mean.std()))
    vae.to_moments.bias[:channels] -= mean.mean((0, 2, 3))
    return vae


def _alone(folder: Path, network: Network, module: VAE | ClipText) -> Path:
    part = Part(written(network, "diffusers"), module.config, from_state(module.state_dict()))
    write_folder(Checkpoint(folder, network, {network: part}, (folder,)), folder)
    return folder
