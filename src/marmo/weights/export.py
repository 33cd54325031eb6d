"""Checkpoints written as other programs read them: a single file with the authors' names, or a diffusers folder."""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch

from marmo.files.atomic import atomic_write
from marmo.models.clip import ClipConfig
from marmo.models.clip_resnet import ClipResNetConfig
from marmo.models.clip_text import ClipTextConfig
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.weights.checkpoint import FOLDER, METADATA_FILE, SINGLE_FILE, Checkpoint, Part
from marmo.weights.folders import write_sharded
from marmo.weights.forms import Family, Json, Network, NetworkConfig, written
from marmo.weights.keymap import to_theirs
from marmo.weights.quantize import quantized
from marmo.weights.store import Tensors, cast, join, prefixed, write

STEMS: Mapping[Network, str] = {"text": "model", "clip": "model", "dinov2": "model"}
"""transformers' networks; diffusers' are called `diffusion_pytorch_model`."""

SCHEDULER: Json = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""As Stable Diffusion 1's own folders say it."""

NOISE = (
    "beta_end",
    "beta_schedule",
    "beta_start",
    "num_train_timesteps",
    "prediction_type",
    "rescale_betas_zero_snr",
    "trained_betas",
)
"""What of a scheduler belongs to the model and not to the sampler."""

MODEL_INDEX: Json = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_single_file(checkpoint: Checkpoint, path: Path, dtype: torch.dtype | None = None) -> None:
    """One safetensors file with the authors' names; of one network, or of all three below CompVis's prefixes."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"a single file ends in .safetensors, not in {path.suffix!r}; for a folder give a name without dot"
        )
    _check_that_names_tell(checkpoint)
    alone = len(checkpoint.parts) == 1
    whole = [
        prefixed(_foreign(part, "original", dtype), "" if alone else SINGLE_FILE[network])
        for network, part in checkpoint.parts.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, join(*whole), checkpoint.metadata)


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = sys.maxsize,
    variant: str | None = None,
) -> None:
    """A diffusers folder; of one network its own folder, of all three a pipeline's.

    Args:
        max_shard_bytes: larger weights are split into several files and an index.
        variant: stands in the names of the weight files, such as fp16.
    """
    if len(checkpoint.parts) == 1:
        part = next(iter(checkpoint.parts.values()))
        if checkpoint.tokenizer:
            _tokenizer(checkpoint).save(folder, _context_length(part.config))
        if checkpoint.tokenizer and _has_resnet(part.config):
            _check_that_names_tell(replace(checkpoint, tokenizer=None))
            write_sharded(folder, STEMS["clip"], _foreign(part, "original", dtype), max_shard_bytes, variant)
        else:
            _write_component(part, folder, dtype, max_shard_bytes, variant)
        return
    for network, part in checkpoint.parts.items():
        bare = replace(part, tensors=replace(part.tensors, metadata={}))  # METADATA_FILE has it
        _write_component(bare, folder / FOLDER[network], dtype, max_shard_bytes, variant)
    _tokenizer(checkpoint).save(folder / "tokenizer")
    if checkpoint.metadata:
        _write_json(folder / METADATA_FILE, checkpoint.metadata, sort=False)
    scheduler = checkpoint.scheduler or SCHEDULER
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {**MODEL_INDEX, "scheduler": ["diffusers", scheduler.get("_class_name", SCHEDULER["_class_name"])]}
    _write_json(folder / "model_index.json", index)  # last: a folder without it is not finished


def _write_component(
    part: Part, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int, variant: str | None
) -> None:
    to_json = written(part.network, "diffusers").to_json
    assert to_json is not None
    tensors, stem = _foreign(part, "diffusers", dtype), STEMS.get(part.network, "diffusion_pytorch_model")
    write_sharded(folder, stem, tensors, max_shard_bytes, variant)
    _write_json(folder / "config.json", to_json(part.config))


def _check_that_names_tell(checkpoint: Checkpoint) -> None:
    """A single file has names and shapes alone; `ValueError` for what nobody could read out of them again."""
    untold = [
        f"{part.network}.{field.name} {getattr(part.config, field.name)}"
        for part in checkpoint.parts.values()
        for field in fields(part.config)
        if getattr(part.config, field.name) != getattr(_told(part), field.name)
    ]
    scheduler = {**SCHEDULER, **checkpoint.scheduler}
    untold += [f"{name} {scheduler[name]}" for name in NOISE if (scheduler.get(name) or None) != SCHEDULER.get(name)]
    tokenizer, usual = _tokenizer(checkpoint), clip_tokenizer()
    if tokenizer.backend.get_vocab() != usual.backend.get_vocab():
        untold.append(f"a tokenizer of its own with {tokenizer.vocab_size} tokens")
    elif tokenizer.pad != usual.pad:
        untold.append(f"padding with token {tokenizer.pad}")
    if untold:
        raise ValueError(f"a single file cannot say what {checkpoint.path} says: {', '.join(untold)}; write a folder")


def _told(part: Part) -> NetworkConfig:
    """The config that a reader of the single file will believe."""
    form = written(part.network, "original")
    assert form.config is not None
    return form.config(to_theirs(form.rules(part.config), part.tensors).infos)


def _has_resnet(config: NetworkConfig) -> bool:
    """Which transformers does not have; OpenAI's names tell its config."""
    return isinstance(config, ClipConfig) and isinstance(config.image, ClipResNetConfig)


def _context_length(config: NetworkConfig) -> int:
    text = config.text if isinstance(config, ClipConfig) else config
    return text.context_length if isinstance(text, ClipTextConfig) else 77


def _tokenizer(checkpoint: Checkpoint) -> ClipTokenizer:
    return ClipTokenizer.from_folder(checkpoint.tokenizer) if checkpoint.tokenizer else clip_tokenizer()


def _foreign(part: Part, family: Family, dtype: torch.dtype | None) -> Tensors:
    tensors = to_theirs(written(part.network, family).rules(part.config), part.tensors)
    if dtype is torch.int8:
        return quantized(tensors)
    return tensors if dtype is None else cast(tensors, dtype)


def _write_json(path: Path, value: Mapping[str, object], sort: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=2, sort_keys=sort) + "\n").encode())
