"""The parts of a latent diffusion model that is trained: found in other people's checkpoints, written as one of them.

parts = found(from_=None, vae=Path("out/vae/vae"), clip=Path("out/clip/clip"))
write_model(Path("out/latent/model"), parts, unet, betas, "v", side=128)
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from marmo.diffusion.denoiser import Target
from marmo.diffusion.noise import Betas
from marmo.models.clip import Clip, ClipConfig
from marmo.models.clip_text import ClipText, ClipTextConfig
from marmo.models.unet import UNet, UNetConfig
from marmo.models.vae import VAE, Moments, VAEConfig
from marmo.text.bpe import ClipTokenizer, TokenizerPlace
from marmo.text.prompt import tokenize
from marmo.weights.checkpoint import DEFAULTS_KEY, Checkpoint, Part, open_checkpoint
from marmo.weights.export import write_folder
from marmo.weights.forms import Network, NetworkConfig, written
from marmo.weights.kinds import SD1, SD2, Kind, Slot
from marmo.weights.maps.scheduler import betas_from_json, scheduler_to_json, target_from_json
from marmo.weights.store import from_state


@dataclass(frozen=True)
class Parts:
    """What a U-Net is trained between."""

    vae: VAE
    text: ClipText
    tokenizer: ClipTokenizer
    kind: Kind
    """Whose folders the result will look like."""

    @property
    def skip(self) -> int:
        """Which layer's states the U-Net reads, counted from the tower's end."""
        return 2 if self.kind.cuts_text else 1

    def ids(self, captions: Sequence[str]) -> Tensor:
        """B T."""
        length = self.text.config.context_length
        return torch.tensor([tokenize(caption, self.tokenizer, length).ids for caption in captions])

    def moments(self, pixels: Tensor) -> Moments:
        """Pixels B 3 S S in [-1, 1] -> the moments of their scaled latents, B Z H W, float32."""
        mean, logvar = self.vae.encode(pixels)
        scale = self.vae.config.latent_scale
        return Moments(mean.float() * scale, logvar.float() + 2 * math.log(scale))

    def pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents B Z H W -> pixels B 3 S S in [-1, 1]."""
        return self.vae.decode(latents / self.vae.config.latent_scale).clamp(-1, 1)


@dataclass(frozen=True)
class Training:
    """How a model was trained."""

    target: Target
    betas: Betas


def found(model: Path | None, vae: Path | None, clip: Path | None) -> Parts:
    """The parts at these paths, in float32 on the CPU; what is not given comes from `model`.

    Raises `ValueError` for what is missing, and for models that are told more than words.
    """
    whole = None if model is None else _whole(model)
    first = open_checkpoint(vae) if vae is not None else whole
    words = open_checkpoint(clip) if clip is not None else whole
    if first is None or words is None:
        raise ValueError("a U-Net needs an autoencoder and a text encoder: give --vae and --clip, or --from")
    text, slot = _text(words)
    # by this a reader of the folder tells which layer the U-Net reads
    kind = SD2 if text.config.activation == "gelu" else SD1
    return Parts(_vae(first), text, words.tokenizer(slot), kind)


def unet_of(model: Path) -> UNet:
    """The U-Net to begin with."""
    part = _whole(model).parts["unet"]
    assert isinstance(part.config, UNetConfig)
    unet = UNet(part.config)
    _fill(unet, part)
    return unet


def training_of(model: Path) -> Training:
    """What the model predicts, over which noise."""
    scheduler = _whole(model).scheduler
    return Training(target_from_json(scheduler), betas_from_json(scheduler))


def write_model(folder: Path, parts: Parts, unet: UNet, text: ClipText, training: Training, side: int) -> None:
    """A whole diffusers folder; one that is there makes room.

    Args:
        text: the tower as it was trained.
        side: pixels along the side of the pictures that it was trained with.
    """
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    networks: dict[Network, nn.Module] = {"text": text, "unet": unet, "vae": parts.vae}
    configs: dict[Network, NetworkConfig] = {"text": text.config, "unet": unet.config, "vae": parts.vae.config}
    held: dict[Slot, Part] = {
        slot: Part(written(slot, "diffusers"), configs[slot], from_state(network.state_dict()))
        for slot, network in networks.items()
    }
    parts.tokenizer.save(folder / "tokenizer", text.config.context_length)
    checkpoint = Checkpoint(
        folder,
        "diffusers folder",
        held,
        (),
        parts.kind,
        tokenizers={"text": TokenizerPlace(folder / "tokenizer")},
        scheduler=scheduler_to_json(training.target, training.betas),
        metadata={DEFAULTS_KEY: json.dumps({"width": side, "height": side})},
    )
    write_folder(checkpoint, folder)


def _whole(path: Path) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    unet = checkpoint.parts.get("unet")
    if checkpoint.kind is None or unet is None or not isinstance(unet.config, UNetConfig):
        raise ValueError(f"{path} holds {' and '.join(checkpoint.parts)} and no whole model to begin with")
    if unet.config.vector_width or unet.config.num_labels or unet.config.in_channels != unet.config.out_channels:
        raise ValueError(
            f"{path} is told more than words or sees more than latents; this recipe trains models like Stable "
            "Diffusion 1 and 2"
        )
    return checkpoint


def _vae(checkpoint: Checkpoint) -> VAE:
    part = checkpoint.parts.get("vae")
    if part is None or not isinstance(part.config, VAEConfig):
        raise ValueError(f"{checkpoint.path} holds {' and '.join(checkpoint.parts)} and no autoencoder")
    vae = VAE(part.config)
    _fill(vae, part)
    return vae.eval().requires_grad_(False)


def _text(checkpoint: Checkpoint) -> tuple[ClipText, Slot]:
    """The text tower of a model, of a CLIP, or alone."""
    for slot, part in checkpoint.parts.items():
        if isinstance(part.config, ClipTextConfig):
            tower = ClipText(replace(part.config, embed_width=None))
            _fill(tower, part)
            return tower, slot
        if isinstance(part.config, ClipConfig):
            clip = Clip(part.config)
            _fill(clip, part)
            return clip.text, slot
    raise ValueError(f"{checkpoint.path} holds {' and '.join(checkpoint.parts)} and no text encoder")


def _fill(network: nn.Module, part: Part) -> None:
    network.load_state_dict({name: part.tensors.read(name).float() for name in network.state_dict()})
