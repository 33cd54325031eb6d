"""A model as it lies on disk, opened whatever its layout: single file, diffusers folder, or one network alone.

    checkpoint = open_checkpoint(Path("v1-5.safetensors"))
    checkpoint.parts["unet"].config, checkpoint.parts["unet"].tensors      # ours, lazy

Opening reads headers and JSON, checks every name and shape, and no tensor's data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from marmo.weights.folders import open_part, part_files
from marmo.weights.forms import Form, Json, Network, NetworkConfig, expected, recognise
from marmo.weights.keymap import to_ours
from marmo.weights.maps.compvis import LEFTOVERS
from marmo.weights.quantize import expanded
from marmo.weights.store import MAX_HEADER, Tensors, open_file, select

SINGLE_FILE: Mapping[Network, str] = {
    "text": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}
METADATA_FILE = "marmo.json"
"""In a folder, what a single file's metadata says; other programs pass it over."""
FOLDER: Mapping[Network, str] = {"text": "text_encoder", "unet": "unet", "vae": "vae"}


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint: its config and its weights under our names."""

    form: Form
    config: NetworkConfig
    tensors: Tensors

    @property
    def network(self) -> Network:
        return self.form.network

    @property
    def num_parameters(self) -> int:
        return sum(info.num_elements for info in self.tensors.infos.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that occur, the most frequent first."""
        names = [str(info.dtype).removeprefix("torch.") for info in self.tensors.infos.values()]
        return tuple(sorted(set(names), key=names.count, reverse=True))


@dataclass(frozen=True)
class Checkpoint:
    """The networks that a path holds."""

    path: Path
    layout: str
    parts: Mapping[Network, Part]
    files: tuple[Path, ...]
    """The weight files."""
    tokenizer: Path | None = None
    scheduler: Json = field(default_factory=dict[str, object])
    """A diffusers folder's scheduler_config.json."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def open_checkpoint(path: Path, variant: str | None = None) -> Checkpoint:
    """Recognise what lies at a path, by content.

    Raises `ValueError`, in one sentence, for what is not there, damaged, or of an architecture that we do not know.
    """
    if not path.is_dir():
        return _open_single(path)
    if (path / "model_index.json").is_file():
        return _open_folder(path, variant)
    if (path / "config.json").is_file():
        return _alone(path, "folder", *_open_component(path, variant))
    if (path / "vocab.json").is_file():  # a network whose names tell its config, and its tokenizer
        return _alone(path, "folder", _part(path, open_part(path, variant), None), part_files(path, variant))
    raise ValueError(f"{path} holds no model: neither model_index.json nor config.json is in it")


def _open_single(path: Path) -> Checkpoint:
    tensors = open_file(path)
    if any(name.startswith(SINGLE_FILE["unet"]) for name in tensors.infos):
        return Checkpoint(path, "single file", _split(path, tensors), (path,), metadata=tensors.metadata)
    part = _part(path, tensors, _read_json(path.parent / "config.json") if _has_config(path) else None)
    return _alone(path, "file", part, (path,))


def _alone(path: Path, layout: str, part: Part, files: tuple[Path, ...]) -> Checkpoint:
    """One network; a tokenizer in its folder belongs to it."""
    return Checkpoint(
        path,
        f"{part.network} {layout}",
        {part.network: part},
        files,
        tokenizer=path if (path / "vocab.json").is_file() else None,
        metadata=part.tensors.metadata,
    )


def _split(path: Path, tensors: Tensors) -> dict[Network, Part]:
    """A single file's networks, each found below its prefix; what else it holds must be a known leftover."""
    prefixes = tuple(SINGLE_FILE.values())
    known = {drop.theirs for drop in LEFTOVERS}
    strange = [name for name in tensors.infos if not name.startswith(prefixes) and not known & set(_beginnings(name))]
    if strange:
        raise ValueError(
            f"{path} is no Stable Diffusion 1 file: it also holds {len(strange)} unknown tensors ({strange[0]}, ...)"
        )
    for network, prefix in SINGLE_FILE.items():
        if not any(name.startswith(prefix) for name in tensors.infos):
            raise ValueError(f"{path} holds no {network}: nothing in it is called {prefix}*")
    return {network: _part(path, select(tensors, prefix), None, network) for network, prefix in SINGLE_FILE.items()}


def _beginnings(name: str) -> list[str]:
    """`a.b.c` -> a, a.b, a.b.c"""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _open_folder(path: Path, variant: str | None) -> Checkpoint:
    _read_json(path / "model_index.json")  # damaged, it is a sign of a broken download
    parts: dict[Network, Part] = {}
    files: list[Path] = []
    for network, name in FOLDER.items():
        part, its_files = _open_component(path / name, variant)
        if part.network != network:
            raise ValueError(f"{path / name} holds a {part.network} where a {network} belongs")
        parts[network] = part
        files += its_files
    scheduler, metadata = path / "scheduler" / "scheduler_config.json", path / METADATA_FILE
    return Checkpoint(
        path,
        "diffusers folder",
        parts,
        tuple(files),
        tokenizer=path / "tokenizer" if (path / "tokenizer").is_dir() else None,
        scheduler=_read_json(scheduler) if scheduler.is_file() else {},
        metadata={key: str(value) for key, value in _read_json(metadata).items()} if metadata.is_file() else {},
    )


def _open_component(folder: Path, variant: str | None) -> tuple[Part, tuple[Path, ...]]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing")
    return _part(folder, open_part(folder, variant), _read_json(folder / "config.json")), part_files(folder, variant)


def _part(path: Path, tensors: Tensors, config_json: Json | None, network: Network | None = None) -> Part:
    """The network that these tensors are; `network` if the place says what it must be."""
    tensors = expanded(tensors, path)
    form = recognise(tensors.infos)
    if form is None or network not in (None, form.network):
        wanted = f"no {network}" if network else "no network that Marmo knows"
        first = next(iter(tensors.infos), "nothing")
        raise ValueError(f"{path} holds {wanted}: its {len(tensors.infos)} tensors begin with {first}")
    try:
        config = _config(form, tensors, config_json)
        return Part(form, config, to_ours(form.rules(config), tensors, expected(config), f"a {form.network}"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _config(form: Form, tensors: Tensors, config_json: Json | None) -> NetworkConfig:
    if config_json is not None and form.from_json is not None:
        return form.from_json(config_json)
    if form.config is None:
        raise ValueError(f"a {form.network} with diffusers' names needs its config.json beside it; give the folder")
    return form.config(tensors.infos)


def _has_config(path: Path) -> bool:
    """Whether a file is one network of a folder, as `vae/diffusion_pytorch_model.safetensors` is."""
    return path.name.startswith(("diffusion_pytorch_model", "model.")) and (path.parent / "config.json").is_file()


def _read_json(path: Path) -> Json:
    try:
        if not path.is_file() or path.stat().st_size > MAX_HEADER:
            raise ValueError(f"it is no file of at most {MAX_HEADER} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return cast(Json, value)
