"""Checkpoints merged into one: weighted sums, differences, a weight per block; a tensor at a time.

    weighted sum     (1 - w) a + w b
    add difference   a + w (b - c)

w is one number, or one for each of the 25 parts of the U-Net of Stable Diffusion 1 and 2 as merge-block-weighted counts
them: IN00 to IN11, M00, OUT00 to OUT11, with the clock's layers in IN00 and the last layers in OUT11; the rest has the
one number.  Sums are made in float32.  Shapes: any; a U-Net of 9 or 8 input channels (inpainting, editing) keeps those
that the others do not have.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from marmo.models.unet import UNetConfig
from marmo.models.vae import VAEConfig
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.fingerprint import file_hash
from marmo.weights.forms import written
from marmo.weights.keymap import their_name
from marmo.weights.kinds import Slot
from marmo.weights.maps.scheduler import betas_from_json, target_from_json
from marmo.weights.store import TensorInfo, Tensors

Method = Literal["weighted-sum", "add-difference"]

MERGE_KEY = "marmo.merge"
"""Where a file's metadata holds the recipe, as JSON."""

NUM_IN = NUM_OUT = 12
NUM_BLOCKS = NUM_IN + 1 + NUM_OUT
_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.")
_KEPT_METADATA = ("marmo.defaults", "modelspec.prediction_type")
"""Of the first model's metadata, what is true of the result too."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A recipe."""

    method: Method = "weighted-sum"
    weight: float = 0.5
    """Of the second model, or of the difference."""
    blocks: tuple[float, ...] = ()
    """The same for each of the 25 blocks of the U-Net; none is `weight` for all."""
    dtype: torch.dtype | None = None
    """Of the floating-point weights; none is the first model's."""

    def __post_init__(self) -> None:
        if self.blocks and len(self.blocks) != NUM_BLOCKS:
            raise ValueError(f"a merge by blocks has {NUM_BLOCKS} weights (IN00 to OUT11), not {len(self.blocks)}")
        for weight in (self.weight, *self.blocks):
            if not abs(weight) <= 10:
                raise ValueError(f"a weight of a merge lies between -10 and 10, not at {weight:g}")


def merged(recipe: Merge, models: Sequence[Checkpoint], vae: Checkpoint | None = None) -> Checkpoint:
    """The models as one, lazily: to be written by `export`, with the recipe in its metadata.

    Args:
        models: the first gives layout, training and what is not merged; of an added difference the third is what is
            taken away.
        vae: whose autoencoder to put in, in place of a merged one.

    Raises `ValueError` for models that do not have the same networks and training.
    """
    count = 3 if recipe.method == "add-difference" else 2
    if len(models) != count:
        raise ValueError(f"{recipe.method} takes {count} models, not {len(models)}")
    first = models[0]
    if recipe.blocks and (first.kind is None or first.kind.name not in ("sd1", "sd2")):
        raise ValueError(f"{first.path} has other blocks than Stable Diffusion 1 and 2; give one weight")
    for other in models[1:]:
        _check_alike(first, other, () if vae is None else ("vae",))
    parts = {
        slot: _with_vae(first, vae) if slot == "vae" and vae is not None else _part(recipe, slot, models)
        for slot in first.parts
    }
    kept = {key: first.metadata[key] for key in _KEPT_METADATA if key in first.metadata}
    metadata = {**kept, MERGE_KEY: json.dumps(describe(recipe, models, vae))}
    return replace(first, parts=parts, metadata=metadata)


def describe(recipe: Merge, models: Sequence[Checkpoint], vae: Checkpoint | None) -> dict[str, object]:
    """The recipe as it stands in the file: what went in, with its sha256, and how."""
    said: dict[str, object] = {
        "method": recipe.method,
        "weight": recipe.weight,
        "models": [_named(model) for model in models],
    }
    if recipe.blocks:
        said["blocks"] = list(recipe.blocks)
    if recipe.dtype is not None:
        said["dtype"] = str(recipe.dtype).removeprefix("torch.")
    if vae is not None:
        said["vae"] = _named(vae)
    return said


def sentence(recipe: str) -> str:
    """A recipe of a file's metadata in words; `ValueError` for text that is none."""
    try:
        said = json.loads(recipe)
        names = [f"{model['name']} ({next(iter(model['sha256'].values()))[:10]})" for model in said["models"]]
        formula = f"{names[0]} + ({names[1]} - {names[2]})" if len(names) == 3 else " + ".join(names)
        blocks = f", blocks {' '.join(f'{weight:g}' for weight in said['blocks'])}" if "blocks" in said else ""
        vae = f", autoencoder of {said['vae']['name']}" if "vae" in said else ""
        return f"merged: {said['method']} of {formula}, weight {said['weight']:g}{blocks}{vae}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration, RecursionError):
        raise ValueError("the recipe of the merge cannot be read") from None


def block_of(name: str) -> int | None:
    """Which of the 25 blocks a tensor of the U-Net belongs to, by its name at CompVis."""
    if name.startswith("time_embed."):
        return 0
    if name.startswith("out."):
        return NUM_BLOCKS - 1
    match = _BLOCK.match(name)
    if match is None:
        return None
    if match[1] == "middle_block":
        return NUM_IN
    return int(match[2]) + (NUM_IN + 1 if match[1] == "output_blocks" else 0)


def _named(model: Checkpoint) -> dict[str, object]:
    return {"name": model.path.name, "sha256": {file.name: file_hash(file) for file in model.files}}


def _check_alike(first: Checkpoint, other: Checkpoint, without: Sequence[Slot]) -> None:
    """`ValueError` unless both have the same networks, of the same shapes, trained alike."""
    for slot, part in first.parts.items():
        theirs = other.parts.get(slot)
        if theirs is None:
            raise ValueError(f"{other.path} cannot be merged with {first.path}: it holds no {slot}")
        if slot not in without and _comparable(part) != _comparable(theirs, part):
            raise ValueError(f"{other.path} cannot be merged with {first.path}: their {slot} networks differ in shape")
    mine, its = ((target_from_json(model.scheduler), betas_from_json(model.scheduler)) for model in (first, other))
    if first.kind is not None and mine != its:
        raise ValueError(
            f"{other.path} cannot be merged with {first.path}: they predict {its[0]} and {mine[0]}, or over other noise"
        )


def _comparable(part: Part, first: Part | None = None) -> object:
    """A config without what may differ: the input channels of a U-Net that paints from words, beside one that edits."""
    config = part.config
    if first is not None and isinstance(config, UNetConfig) and isinstance(first.config, UNetConfig):
        plain = config.in_channels == config.out_channels
        return replace(config, in_channels=first.config.in_channels) if plain else config
    return replace(config, latent_scale=1.0) if isinstance(config, VAEConfig) else config


def _with_vae(first: Checkpoint, vae: Checkpoint) -> Part:
    part, own = vae.parts.get("vae"), first.parts["vae"]
    if part is None or _comparable(part) != _comparable(own):
        raise ValueError(f"{vae.path} holds no autoencoder that fits {first.path}")
    return replace(part, config=own.config)


def _part(recipe: Merge, slot: Slot, models: Sequence[Checkpoint]) -> Part:
    """One network, merged."""
    parts = [model.parts[slot] for model in models]
    weights = _weights(recipe, slot, parts[0])
    infos = {
        name: TensorInfo(recipe.dtype, info.shape) if recipe.dtype and info.dtype.is_floating_point else info
        for name, info in parts[0].tensors.infos.items()
    }

    def read(name: str) -> Tensor:
        return _mix([part.tensors.read(name) for part in parts], weights[name]).to(infos[name].dtype)

    return replace(parts[0], tensors=Tensors(infos, read, parts[0].tensors.metadata))


def _weights(recipe: Merge, slot: Slot, part: Part) -> Mapping[str, float]:
    """Our name -> the weight of its block."""
    names = part.tensors.infos
    if slot != "unet" or not recipe.blocks:
        return dict.fromkeys(names, recipe.weight)
    rules = written(part.network, "original").rules(part.config)
    blocks = {name: block_of(their_name(rules, name)) for name in names}
    return {name: recipe.weight if block is None else recipe.blocks[block] for name, block in blocks.items()}


def _mix(tensors: Sequence[Tensor], weight: float) -> Tensor:
    first, *others = (tensor.float() for tensor in tensors)
    if first.shape != others[0].shape:  # the input layer of a model that edits: the others' channels come first
        count = others[0].shape[1]
        return torch.cat([_mix([first[:, :count], *others], weight), first[:, count:]], dim=1)
    if len(others) == 1:
        return first * (1 - weight) + others[0] * weight
    return first + (others[0] - others[1]) * weight
