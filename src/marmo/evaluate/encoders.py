"""The networks whose features pictures are measured in, opened from files that the user has.

    open_space(Path("pt_inception-2015-12-05.safetensors"), "clean")     # FID as clean-fid measures it
    open_space(Path("clip-vit-large-patch14-336"), "square")             # CMMD
    open_space(Path("dinov2_vitl14_pretrain.safetensors"))               # FD-DINOv2

A space is called after the published network, if it is one, and else after its sizes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from marmo.evaluate.features import Colour, FeatureSpace, Preprocessing, Space
from marmo.evaluate.resize import RuleName
from marmo.models import clip, dinov2
from marmo.models.clip import Clip, ClipConfig
from marmo.models.clip_vision import VIT_B_32_IMAGE, VIT_L_14_336_IMAGE, VIT_L_14_IMAGE
from marmo.models.dinov2 import VIT_B_14, VIT_L_14, VIT_S_14, DinoV2, DinoV2Config
from marmo.models.inception import INCEPTION_2015, Inception, InceptionConfig
from marmo.nn.blueprint import blueprint
from marmo.nn.device import choose_device
from marmo.weights.checkpoint import Checkpoint, Part, open_checkpoint
from marmo.weights.fingerprint import file_hash
from marmo.weights.forms import NetworkConfig
from marmo.weights.keymap import fill


@dataclass(frozen=True)
class Encoder:
    """A network without its weights, and how pictures come to it."""

    name: str
    width: int
    prepare: Preprocessing
    module: nn.Module
    encode: Callable[[Tensor], Tensor]


def open_space(
    path: Path, rule: RuleName | None = None, side: int | None = None, device: str | None = None
) -> FeatureSpace:
    """The feature space of an Inception of 2015, a DINOv2 or a CLIP that lies at a path.

    Args:
        rule: how pictures are resized; by default "clean" for Inception, "pillow" for DINOv2, "clip" for CLIP.
        side: of the pictures that the network sees; by default 299, 224 for DINOv2, a CLIP's own.  Only a DINOv2 takes
            others, multiples of its patch.

    Raises `ValueError` for a file that holds no network that turns pictures into vectors.
    """
    checkpoint, place = open_checkpoint(path), choose_device(device)
    *others, part = checkpoint.parts.values()
    encoder = None if others else encoder_of(part.config, rule, side)
    if encoder is None:
        held = " and ".join(checkpoint.parts)
        raise ValueError(f"{path} holds {held}; features come from an inception, a dinov2 or a clip alone")
    return filled(encoder, checkpoint, part, place)


def filled(encoder: Encoder, checkpoint: Checkpoint, part: Part, device: torch.device) -> FeatureSpace:
    """The encoder with its weights, and its name with their hash."""
    fill(encoder.module, part.tensors, torch.float32, device)
    identity = Space(network=encoder.name, sha256=_digest(checkpoint), resize=str(encoder.prepare), width=encoder.width)
    return FeatureSpace(identity, encoder.prepare, encoder.encode, device)


def encoder_of(config: NetworkConfig, rule: RuleName | None, side: int | None) -> Encoder | None:
    """The network of a config as a feature space takes it; `None` where it turns no pictures into vectors."""
    match config:
        case InceptionConfig():
            return _inception(config, rule, side)
        case DinoV2Config():
            return _dinov2(config, rule, side)
        case ClipConfig():
            return _clip(config, rule, side)
        case _:
            return None


def _inception(config: InceptionConfig, rule: RuleName | None, side: int | None) -> Encoder:
    # The graph itself subtracts 128 and divides by 128; pytorch-fid maps [0, 255] to [-1, 1].
    half = 127.5 if rule == "pytorch-fid" else 128.0
    grey = (half, half, half)
    prepare = Preprocessing(rule=rule or "clean", side=_only(299, side), mean=grey, std=grey)
    name = "inception-2015" if config == INCEPTION_2015 else f"inception-{config.width}"
    with blueprint():
        network = Inception(config)
    return Encoder(name, config.width, prepare, network, network)


def _dinov2(config: DinoV2Config, rule: RuleName | None, side: int | None) -> Encoder:
    side = 16 * config.patch_size if side is None else side
    if side < 1 or side % config.patch_size:
        raise ValueError(f"side {side} is no multiple of this DINOv2's patches of {config.patch_size} pixels")
    prepare = Preprocessing(
        rule=rule or "pillow", side=side, mean=_levels(dinov2.PIXEL_MEAN), std=_levels(dinov2.PIXEL_STD)
    )
    with blueprint():
        network = DinoV2(config)
    return Encoder(_dinov2_name(config), config.width, prepare, network, network)


def _clip(config: ClipConfig, rule: RuleName | None, side: int | None) -> Encoder:
    size = _only(config.image.image_size, side)
    prepare = Preprocessing(rule=rule or "clip", side=size, mean=_levels(clip.PIXEL_MEAN), std=_levels(clip.PIXEL_STD))
    with blueprint():
        network = Clip(config)
    return Encoder(_clip_name(config), config.image.embed_width, prepare, network, network.encode_image)


def _clip_name(config: ClipConfig) -> str:
    known = {"b-32": VIT_B_32_IMAGE, "l-14": VIT_L_14_IMAGE, "l-14-336": VIT_L_14_336_IMAGE}
    names = [name for name, image in known.items() if image == config.image]
    return f"clip-vit-{names[0]}" if names else f"clip-{config.image.embed_width}-{config.image.image_size}"


def _dinov2_name(config: DinoV2Config) -> str:
    known = {"s": VIT_S_14, "b": VIT_B_14, "l": VIT_L_14}
    plain = replace(config, num_registers=0, resampling="offset")
    names = [f"vit-{name}-14" for name, whole in known.items() if whole == plain]
    name = names[0] if names else f"{config.width}x{config.num_layers}"
    registers = "-reg" if config.num_registers else ""
    # Other positions are other features: see `dinov2.Resampling`.
    return f"dinov2-{name}{registers}{'-hf' if config.resampling == 'plain' else ''}"


def _digest(checkpoint: Checkpoint) -> str:
    hashes = [file_hash(file) for file in checkpoint.files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _only(allowed: int, side: int | None) -> int:
    if side not in (None, allowed):
        raise ValueError(f"side {side} is not possible: this network sees pictures of {allowed} pixels")
    return allowed


def _levels(colour: Colour) -> Colour:
    red, green, blue = colour
    return 255 * red, 255 * green, 255 * blue
