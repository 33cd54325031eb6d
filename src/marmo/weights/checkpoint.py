"""A model as it lies on disk, opened whatever its layout: single file, diffusers folder, or one network alone.

    checkpoint = open_checkpoint(Path("v1-5.safetensors"))
    checkpoint.parts["unet"].config, checkpoint.parts["unet"].tensors      # ours, lazy

Opening reads headers and JSON, checks every name and shape, and no tensor's data.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from marmo.models.unet import UNetConfig
from marmo.text.bpe import ClipTokenizer, TokenizerPlace, clip_tokenizer
from marmo.weights import markers
from marmo.weights.enclosed import config_of, enclosed_in
from marmo.weights.folders import Opener, open_part, part_files
from marmo.weights.forms import Form, Json, Network, NetworkConfig, expected, recognise
from marmo.weights.keymap import to_ours
from marmo.weights.kinds import SD1, SD2, SD_X2, SD_X4, SDXL, SDXL_REFINER, Kind, Place, Slot, kind_of_names
from marmo.weights.maps.compvis import LEFTOVERS
from marmo.weights.maps.latent_upscaler import is_latent_upscaler
from marmo.weights.notes import read_notes
from marmo.weights.quantize import expanded
from marmo.weights.store import MAX_HEADER, Tensors, open_file, select

DEFAULTS_KEY = "marmo.defaults"
"""Where the metadata may hold a model's own `Defaults`, as JSON."""
PIXELS_PEER = "UNet2DModel"
"""diffusers' class of the one network of a folder that paints without an autoencoder."""


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
    parts: Mapping[Slot, Part]
    files: tuple[Path, ...]
    """The weight files."""
    kind: Kind | None = None
    """What its networks are together; none of one network alone."""
    tokenizers: Mapping[Slot, TokenizerPlace] = field(default_factory=dict[Slot, TokenizerPlace])
    """Those of its own, by the text encoder that each belongs to."""
    scheduler: Json = field(default_factory=dict[str, object])
    """A diffusers folder's scheduler_config.json, or what a single file says in its place."""
    index: Json = field(default_factory=dict[str, object])
    """A diffusers folder's model_index.json."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """A single file's, or what a folder says in its place; see `notes`."""

    def tokenizer(self, slot: Slot) -> ClipTokenizer:
        """A text encoder's own, else its kind's."""
        if slot in self.tokenizers:
            return self.tokenizers[slot].open()
        pad = self.kind.places[slot].pad if self.kind else None
        return clip_tokenizer() if pad is None else replace(clip_tokenizer(), pad=pad)


def open_checkpoint(path: Path, variant: str | None = None, opener: Opener = open_file) -> Checkpoint:
    """Recognise what lies at a path, by content.

    Args:
        opener: opens each weight file; the usual one refuses pickles.

    Raises `ValueError`, in one sentence, for what is not there, damaged, or of an architecture that we do not know.
    """
    if not path.is_dir():
        return _open_single(path, opener)
    if (path / "model_index.json").is_file():
        return _open_folder(path, variant, opener)
    if (path / "config.json").is_file():
        return _alone(path, "folder", *_open_component(path, variant, opener))
    if (path / "vocab.json").is_file():  # a network whose names tell its config, and its tokenizer
        part = _part(path, open_part(path, variant, opener), None)
        return _alone(path, "folder", part, part_files(path, variant))
    raise ValueError(f"{path} holds no model: neither model_index.json nor config.json is in it")


def _open_single(path: Path, opener: Opener) -> Checkpoint:
    tensors = opener(path)
    if any(name.startswith(SD1.places["unet"].prefix) for name in tensors.infos):
        return _open_whole(path, tensors)
    enclosed = enclosed_in(path, tensors.metadata)
    beside = _read_json(path.parent / "config.json") if _has_config(path) else None
    part = _part(path, tensors, beside, enclosed=next(iter(enclosed.configs.values()), None))
    return replace(_alone(path, "file", part, (path,)), tokenizers=enclosed.places(path, [part.network]))


def _alone(path: Path, layout: str, part: Part, files: tuple[Path, ...]) -> Checkpoint:
    """One network; a tokenizer in its folder belongs to it."""
    return Checkpoint(
        path,
        f"{part.network} {layout}",
        {part.network: part},
        files,
        tokenizers={part.network: TokenizerPlace(path)} if (path / "vocab.json").is_file() else {},
        metadata=part.tensors.metadata,
    )


def _open_whole(path: Path, tensors: Tensors) -> Checkpoint:
    kind, enclosed = kind_of_names(tensors.infos), enclosed_in(path, tensors.metadata)
    parts = _split(path, tensors, kind, enclosed.configs)
    unet = parts["unet"]
    assert isinstance(unet.config, UNetConfig)
    return Checkpoint(
        path,
        "single file",
        parts,
        (path,),
        kind,
        tokenizers=enclosed.places(path, parts),
        scheduler=enclosed.scheduler or markers.told(tensors, unet.config, unet.tensors),
        metadata=tensors.metadata,
    )


def _split(path: Path, tensors: Tensors, kind: Kind, configs: Mapping[str, Json]) -> dict[Slot, Part]:
    """A single file's networks, each found below its prefix; what else it holds must be a known leftover."""
    prefixes = tuple(place.prefix for place in kind.places.values())
    known = {drop.theirs for drop in LEFTOVERS} | {markers.V_PRED, markers.ZTSNR}
    strange = [name for name in tensors.infos if not name.startswith(prefixes) and not known & set(_beginnings(name))]
    if strange:
        raise ValueError(
            f"{path} is no {kind.title} file: it also holds {len(strange)} unknown tensors ({strange[0]}, ...)"
        )
    for slot, place in kind.places.items():
        if not any(name.startswith(place.prefix) for name in tensors.infos):
            raise ValueError(f"{path} holds no {slot}: nothing in it is called {place.prefix}*")
    return {
        slot: _part(path, select(tensors, place.prefix), None, network_of(slot), kind.single_config, configs.get(slot))
        for slot, place in kind.places.items()
    }


def network_of(slot: Slot) -> Network:
    """Which network a model has in this place."""
    return "text" if slot == "text2" else slot


def _beginnings(name: str) -> list[str]:
    """`a.b.c` -> a, a.b, a.b.c"""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _open_folder(path: Path, variant: str | None, opener: Opener) -> Checkpoint:
    index = _read_json(path / "model_index.json")  # damaged, it is a sign of a broken download
    if index.get("unet") == ["diffusers", PIXELS_PEER]:
        return _open_pixels(path, index, variant, opener)
    kind = _kind_of_folder(path)
    parts: dict[Slot, Part] = {}
    files: list[Path] = []
    for slot, place in kind.places.items():
        part, its_files = _open_component(path / place.folder, variant, opener, kind.folder_config)
        wanted = place.network or network_of(slot)
        if part.network != wanted:
            raise ValueError(f"{path / place.folder} holds a {part.network} where a {wanted} belongs")
        parts[slot] = part
        files += its_files
    return Checkpoint(
        path,
        "diffusers folder",
        parts,
        tuple(files),
        kind,
        tokenizers=_tokenizers(path, kind.places),
        scheduler=_scheduler(path / "scheduler"),
        index=index,
        metadata=read_notes(path),
    )


def _open_pixels(path: Path, index: Json, variant: str | None, opener: Opener) -> Checkpoint:
    """One network and a scheduler, in folders of their own or, as the first models of DDPM were published, in none."""
    network, scheduler = (path / name if (path / name).is_dir() else path for name in ("unet", "scheduler"))
    part, files = _open_component(network, variant, opener)
    return Checkpoint(
        path,
        "diffusers folder",
        {part.network: part},
        files,
        scheduler=_scheduler(scheduler),
        index=index,
        metadata=read_notes(path),
    )


def _scheduler(folder: Path) -> Json:
    path = folder / "scheduler_config.json"
    return _read_json(path) if path.is_file() else {}


def _kind_of_folder(path: Path) -> Kind:
    """By the text encoders: SDXL has two, its refiner the second, SD 2 an OpenCLIP.  Upscalers by the U-Net."""
    first, second = (path / SDXL.places[slot].folder for slot in ("text", "text2"))
    if second.is_dir():
        return SDXL if first.is_dir() else SDXL_REFINER
    config, unet = first / "config.json", path / "unet" / "config.json"
    said: Json = _read_json(unet) if unet.is_file() else {}
    if is_latent_upscaler(said):
        return SD_X2
    if said.get("num_class_embeds") is not None:
        return SD_X4
    return SD2 if config.is_file() and _read_json(config).get("hidden_act") == "gelu" else SD1


def _tokenizers(path: Path, places: Mapping[Slot, Place]) -> dict[Slot, TokenizerPlace]:
    folders: dict[Slot, Path] = {slot: path / place.tokenizer for slot, place in places.items() if place.tokenizer}
    return {slot: TokenizerPlace(folder) for slot, folder in folders.items() if folder.is_dir()}


def _open_component(
    folder: Path,
    variant: str | None,
    opener: Opener,
    whole: Callable[[NetworkConfig], NetworkConfig] | None = None,
) -> tuple[Part, tuple[Path, ...]]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing")
    part = _part(folder, open_part(folder, variant, opener), _read_json(folder / "config.json"), None, whole)
    return part, part_files(folder, variant)


def _part(
    path: Path,
    tensors: Tensors,
    config_json: Json | None,
    network: Network | None = None,
    whole: Callable[[NetworkConfig], NetworkConfig] | None = None,
    enclosed: Json | None = None,
) -> Part:
    """The network that these tensors are.

    Args:
        network: if the place says what it must be.
        whole: adds to a config what the place says.
        enclosed: its config, if the file has it.
    """
    tensors = expanded(tensors, path)
    form = recognise(tensors.infos)
    if form is None or network not in (None, form.network):
        wanted = f"no {network}" if network else "no network that Marmo knows"
        first = next(iter(tensors.infos), "nothing")
        raise ValueError(f"{path} holds {wanted}: its {len(tensors.infos)} tensors begin with {first}")
    try:
        if enclosed is not None:
            config = config_of(form, enclosed)
        else:
            config = _config(form, tensors, config_json)
            config = config if whole is None else whole(config)
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
    return (
        path.name.startswith(("diffusion_pytorch_model", "pytorch_model", "model."))
        and (path.parent / "config.json").is_file()
    )


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
