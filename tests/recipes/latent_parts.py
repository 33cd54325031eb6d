"""An autoencoder and a text encoder of a few thousand numbers, on disk, for the recipe between them."""

from pathlib import Path

import torch

from marmo.models.clip_text import ClipText, ClipTextConfig
from marmo.models.vae import VAE, VAEConfig
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.export import write_folder
from marmo.weights.forms import Network, written
from marmo.weights.store import from_state

VAE_CONFIG = VAEConfig(channels=(8, 16, 16), latent_channels=4, latent_scale=0.9, num_res_blocks=1, num_groups=4)
TEXT_CONFIG = ClipTextConfig(width=32, num_layers=2, num_heads=2, context_length=16)


def write_parts(folder: Path) -> tuple[Path, Path]:
    """The folders of a VAE of factor 4 and of a text tower with a context of 16."""
    torch.manual_seed(0)
    return _alone(folder / "vae", "vae", VAE(VAE_CONFIG)), _alone(folder / "text", "text", ClipText(TEXT_CONFIG))


def _alone(folder: Path, network: Network, module: VAE | ClipText) -> Path:
    part = Part(written(network, "diffusers"), module.config, from_state(module.state_dict()))
    write_folder(Checkpoint(folder, network, {network: part}, (folder,)), folder)
    return folder
