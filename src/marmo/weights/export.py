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
from marmo.models.latent_upscaler import LatentUpscalerConfig
from marmo.models.unet import UNetConfig
from marmo.models.vae import VAEConfig
from marmo.weights import markers
from marmo.weights.checkpoint import DEFAULTS_KEY, PIXELS_PEER, Checkpoint, Part
from marmo.weights.enclosed import ENCLOSED_KEY, Enclosed, config_of
from marmo.weights.folders import write_sharded
from marmo.weights.forms import Family, Json, Network, NetworkConfig, expected, written
from marmo.weights.keymap import Constant, to_theirs
from marmo.weights.kinds import PIPELINES, SD_X4, SDXL, UPSCALER_LEVELS, Kind, Slot, task_of
from marmo.weights.notes import write_notes
from marmo.weights.quantize import quantized
from marmo.weights.store import Tensors, cast, from_state, join, only, prefixed, write

STEMS: Mapping[Network, str] = {"text": "model", "clip": "model", "dinov2": "model"}
"""transformers' networks; diffusers' are called `diffusion_pytorch_model`."""

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

FILLED = ("num_cut", "embed_width")
"""What a reader of a single file will believe to be there, since it is filled in."""

INPAINT_VERSION = "0.6.0"
"""The first version of diffusers whose inpainting pipeline is for models that see a mask."""

FILLER_KEY = "marmo.filler"
"""Names, in a single file's metadata, the tensors that stand for weights which a folder had left out."""


def write_single_file(checkpoint: Checkpoint, path: Path, dtype: torch.dtype | None = None) -> Enclosed:
    """One safetensors file with the authors' names; of one network, or of all of a model below their prefixes.

    Returns what names and shapes could not tell, which other programs will not read in the metadata.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"a single file ends in .safetensors, not in {path.suffix!r}; for a folder give a name without dot"
        )
    untold = _enclosed(checkpoint)
    whole = [_single(checkpoint, slot, dtype) for slot in checkpoint.parts]
    scheduler = {**_believed(checkpoint), **checkpoint.scheduler}
    whole.append(from_state(markers.marks(scheduler, _believed(checkpoint))))
    filled = [name for slot in checkpoint.parts for name in _fillers(checkpoint, slot)]
    notes = {FILLER_KEY: " ".join(filled)} if filled else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, join(*whole), {**_for_anywhere(checkpoint.metadata), **notes, **untold.notes()})
    return untold


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = sys.maxsize,
    variant: str | None = None,
) -> None:
    """A diffusers folder; of one network its own folder, of a whole model a pipeline's.

    Args:
        max_shard_bytes: larger weights are split into several files and an index.
        variant: stands in the names of the weight files, such as fp16.
    """
    kind = checkpoint.kind
    if "pixel_unet" in checkpoint.parts and checkpoint.scheduler:
        _write_pixels(checkpoint, folder, dtype, max_shard_bytes, variant)
        return
    if kind is None:
        _write_alone(checkpoint, folder, dtype, max_shard_bytes, variant)
        return
    scheduler = _scheduler(checkpoint, kind)
    for slot, part in checkpoint.parts.items():
        bare = replace(part.tensors, metadata={})  # the folder's notes have it
        config = kind.for_folder(part.config)
        kept = Part(part.form, config, only(bare, expected(config)))
        said = {"sample_size": _sample_size(checkpoint, kind, scheduler)} if slot == "unet" else {}
        _write_component(kept, folder / kind.places[slot].folder, dtype, max_shard_bytes, variant, said)
    for slot, place in kind.places.items():
        if place.tokenizer is not None:
            length = _context_length(checkpoint.parts[slot].config)
            checkpoint.tokenizer(slot).save(folder / place.tokenizer, length)
    write_notes(folder, _for_anywhere(checkpoint.metadata))
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    if kind is SD_X4:
        small = {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", **UPSCALER_LEVELS}
        _write_json(folder / "low_res_scheduler" / "scheduler_config.json", {**small, "num_train_timesteps": 1000})
    _write_json(folder / "model_index.json", _index(checkpoint, kind, scheduler))  # last: without it none is finished


def _write_alone(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int, variant: str | None
) -> None:
    """One network's folder, with its tokenizer if it has its own."""
    ((slot, part),) = checkpoint.parts.items()
    if checkpoint.tokenizers:
        checkpoint.tokenizer(slot).save(folder, _context_length(part.config))
    if checkpoint.tokenizers and _has_resnet(part.config):
        _check_that_names_tell(checkpoint, slot)
        write_sharded(folder, STEMS["clip"], _foreign(part, "original", dtype), max_shard_bytes, variant)
    else:
        _write_component(part, folder, dtype, max_shard_bytes, variant)


def _write_pixels(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int, variant: str | None
) -> None:
    """A network that paints pixels, and the noise that it was trained on: diffusers' DDPMPipeline."""
    part = checkpoint.parts["pixel_unet"]
    bare = Part(part.form, part.config, replace(part.tensors, metadata={}))
    _write_component(bare, folder / "unet", dtype, max_shard_bytes, variant)
    scheduler = {"_class_name": "DDPMScheduler", **checkpoint.scheduler}
    write_notes(folder, checkpoint.metadata)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    components = {"unet": ["diffusers", PIXELS_PEER], "scheduler": ["diffusers", scheduler["_class_name"]]}
    pipeline = str(checkpoint.index.get("_class_name", "DDPMPipeline"))
    _write_json(folder / "model_index.json", {"_class_name": pipeline, **components})


def _scheduler(checkpoint: Checkpoint, kind: Kind) -> Json:
    """The folder's own, or the kind's with what a single file said."""
    if "_class_name" in checkpoint.scheduler:
        return checkpoint.scheduler
    scheduler = {**kind.scheduler, **checkpoint.scheduler}
    if scheduler.get("rescale_betas_zero_snr"):
        return {**SDXL.scheduler, **checkpoint.scheduler, "timestep_spacing": "trailing"}
    return scheduler


def _sample_size(checkpoint: Checkpoint, kind: Kind, scheduler: Json) -> int:
    """Latents along the side of the pictures that the model paints by itself: its own defaults', else its kind's."""
    vae = checkpoint.parts["vae"].config
    assert isinstance(vae, VAEConfig)
    match json.loads(checkpoint.metadata.get(DEFAULTS_KEY, "{}")):
        case {"width": int(own)}:
            return own // vae.factor
        case _:
            return kind.side_for(scheduler.get("prediction_type")) // vae.factor


def _index(checkpoint: Checkpoint, kind: Kind, scheduler: Json) -> Json:
    components = {place.folder: list(place.peer) for place in kind.places.values()}
    tokenizers = {
        place.tokenizer: ["transformers", "CLIPTokenizer"] for place in kind.places.values() if place.tokenizer
    }
    kept = {key: checkpoint.index[key] for key in ("force_zeros_for_empty_prompt",) if key in checkpoint.index}
    return {
        **kind.index,
        **_pipeline(checkpoint, kind),
        **kept,
        **components,
        **tokenizers,
        "scheduler": ["diffusers", scheduler.get("_class_name", kind.scheduler["_class_name"])],
    }


def _pipeline(checkpoint: Checkpoint, kind: Kind) -> Json:
    """diffusers' class for a model that edits.  For inpainting it reads the version, below which it means another."""
    unet, vae = checkpoint.parts["unet"].config, checkpoint.parts["vae"].config
    assert isinstance(unet, UNetConfig | LatentUpscalerConfig) and isinstance(vae, VAEConfig)
    task = task_of(unet, vae)
    if task == "paint":
        return {}
    usual = (
        str(kind.index.get("_class_name", "StableDiffusionPipeline"))
        .removesuffix("Img2ImgPipeline")
        .removesuffix("Pipeline")
    )
    version = {"_diffusers_version": INPAINT_VERSION} if task == "inpaint" else {}
    return {"_class_name": usual + PIPELINES[task], **version}


def _write_component(
    part: Part,
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
    variant: str | None,
    said: Json | None = None,
) -> None:
    """One network's folder.

    Args:
        said: what its config.json shall say beside the config.
    """
    to_json = written(part.network, "diffusers").to_json
    assert to_json is not None
    tensors, stem = _foreign(part, "diffusers", dtype), STEMS.get(part.network, "diffusion_pytorch_model")
    write_sharded(folder, stem, tensors, max_shard_bytes, variant)
    _write_json(folder / "config.json", {**to_json(part.config), **(said or {})})


def _single(checkpoint: Checkpoint, slot: Slot, dtype: torch.dtype | None) -> Tensors:
    """A network as it stands in a single file, below its prefix where it is not alone."""
    part = checkpoint.parts[slot]
    prefix = checkpoint.kind.places[slot].prefix if checkpoint.kind else ""
    return prefixed(_foreign(part, _names(checkpoint, slot), dtype), prefix)


def _names(checkpoint: Checkpoint, slot: Slot) -> Family:
    """Whose names a network has in a single file."""
    if checkpoint.kind is not None:
        return checkpoint.kind.places[slot].names
    family = checkpoint.parts[slot].form.family
    return "original" if family == "diffusers" else family


def _fillers(checkpoint: Checkpoint, slot: Slot) -> list[str]:
    part = checkpoint.parts[slot]
    prefix = checkpoint.kind.places[slot].prefix if checkpoint.kind else ""
    rules = written(part.network, _names(checkpoint, slot)).rules(part.config)
    return [prefix + rule.theirs for rule in rules if isinstance(rule, Constant) and rule.filler]


def _for_anywhere(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is no matter of the file in which it stands."""
    return {key: value for key, value in metadata.items() if key not in (FILLER_KEY, ENCLOSED_KEY)}


def _enclosed(checkpoint: Checkpoint) -> Enclosed:
    """What names and shapes would not tell a reader of the single file; `ValueError` for what JSON does not, either."""
    configs = {slot: _in_json(checkpoint, slot) for slot in checkpoint.parts if _untold(checkpoint, slot)}
    tokenizers = {slot: json.loads(checkpoint.tokenizer(slot).to_json()) for slot in _untold_words(checkpoint)}
    return Enclosed(configs, checkpoint.scheduler if _untold_noise(checkpoint) else {}, tokenizers)


def _in_json(checkpoint: Checkpoint, slot: Slot) -> Json:
    """A network's config as diffusers writes it; `ValueError` for one that would be read as another."""
    part = checkpoint.parts[slot]
    to_json = written(part.network, "diffusers").to_json
    assert to_json is not None
    said = to_json(part.config)
    lost = _differences(part.config, config_of(written(part.network, _names(checkpoint, slot)), said))
    if lost:
        raise ValueError(f"a single file cannot say what {checkpoint.path} says: {slot}.{lost[0]}; write a folder")
    return said


def _check_that_names_tell(checkpoint: Checkpoint, slot: Slot) -> None:
    """`ValueError` for what nobody could read out of names and shapes again."""
    untold = _untold(checkpoint, slot)
    if untold:
        raise ValueError(f"the names of {checkpoint.path} cannot say {slot}.{f', {slot}.'.join(untold)}")


def _untold(checkpoint: Checkpoint, slot: Slot) -> list[str]:
    """What of a network's config names and shapes do not tell."""
    return _differences(checkpoint.parts[slot].config, _told(checkpoint, slot))


def _differences(config: NetworkConfig, other: NetworkConfig) -> list[str]:
    """The fields in which another config differs, with the values of the first."""
    return [
        f"{field.name} {getattr(config, field.name)}"
        for field in fields(config)
        if field.name not in FILLED and getattr(config, field.name) != getattr(other, field.name)
    ]


def _told(checkpoint: Checkpoint, slot: Slot) -> NetworkConfig:
    """The config that a reader of the single file will believe."""
    part = checkpoint.parts[slot]
    form = written(part.network, _names(checkpoint, slot))
    assert form.config is not None
    config = form.config(to_theirs(form.rules(part.config), part.tensors).infos)
    return config if checkpoint.kind is None else checkpoint.kind.single_config(config)


def _has_resnet(config: NetworkConfig) -> bool:
    """Which transformers does not have; OpenAI's names tell its config."""
    return isinstance(config, ClipConfig) and isinstance(config.image, ClipResNetConfig)


def _context_length(config: NetworkConfig) -> int:
    text = config.text if isinstance(config, ClipConfig) else config
    return text.context_length if isinstance(text, ClipTextConfig) else 77


def _believed(checkpoint: Checkpoint) -> Json:
    """What a reader of the single file will believe of its training, before any mark is added."""
    unet = checkpoint.parts.get("unet")
    if checkpoint.kind is None or unet is None or not isinstance(unet.config, UNetConfig):
        return {}
    return markers.told(Tensors({}, unet.tensors.read, checkpoint.metadata), unet.config, unet.tensors)


def _untold_noise(checkpoint: Checkpoint) -> bool:
    """Whether of the scheduler something belongs to the model that can be neither marked nor found out."""
    if checkpoint.kind is None:
        return False
    usual = {**checkpoint.kind.scheduler, **_believed(checkpoint)}
    wanted = {**usual, **checkpoint.scheduler}
    marked = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "trained_betas": wanted["trained_betas"],
    }
    return any(
        (wanted[name] or None) != (usual.get(name) or None) and wanted[name] != marked.get(name)
        for name in NOISE
        if name in wanted
    )


def _untold_words(checkpoint: Checkpoint) -> list[Slot]:
    """The text encoders whose tokenizer or padding is not their kind's."""
    return [
        slot
        for slot in checkpoint.tokenizers
        if checkpoint.tokenizer(slot).to_json() != replace(checkpoint, tokenizers={}).tokenizer(slot).to_json()
    ]


def _foreign(part: Part, family: Family, dtype: torch.dtype | None) -> Tensors:
    tensors = to_theirs(written(part.network, family).rules(part.config), part.tensors)
    if dtype is torch.int8:
        return quantized(tensors)
    return tensors if dtype is None else cast(tensors, dtype)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
