"""From places to things that may be models: files by their suffix, folders by what lies in them; nothing is opened."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from marmo.library.places import Origin, Place

SUFFIXES = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})
WEIGHTS = ("diffusion_pytorch_model", "pytorch_model", "model.safetensors", "model.fp16.safetensors")
"""How the weights begin that lie beside a config.json."""
MAX_ENTRIES = 1_000_000
"""Files in all places; a root that is the whole disk shall not keep anybody waiting for ever."""


@dataclass(frozen=True)
class Candidate:
    """Something that may be a model."""

    origin: Origin
    path: Path
    name: str
    """What people call it: the file's or folder's name, without the suffix; from the hub `owner/name`"""


def candidates(places: Iterable[Place]) -> Iterator[Candidate]:
    """Each once, whatever links lead to it, in the order of the places and then of the names."""
    seen: set[str] = set()
    for place in places:
        for path in _walk(place.path):
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield Candidate(place.origin, path, model_name(path))


def model_name(path: Path) -> str:
    """A short name, without where it lies."""
    owner_and_name = hub_name(path)
    if owner_and_name is not None:
        return owner_and_name
    return path.stem if path.suffix in SUFFIXES else path.name


def hub_name(path: Path) -> str | None:
    """`owner/name` of a snapshot in the hub's cache, with `@revision` where it is not the one that main points at."""
    if path.parent.name != "snapshots" or not path.parents[1].name.startswith("models--"):
        return None
    name = path.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    refs = {ref.name: _first_line(ref) for ref in (path.parents[1] / "refs").glob("*") if ref.is_file()}
    if refs.get("main") == path.name:
        return name
    return f"{name}@{next((ref for ref, commit in refs.items() if commit == path.name), path.name[:12])}"


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[:100].strip()


def _walk(top: Path) -> Iterator[Path]:
    """Files and folders that may be models; links are followed, each folder is entered once."""
    if top.is_file():
        yield top
        return
    entered: set[str] = set()
    count = 0
    for folder, subfolders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        count += len(names)
        if count > MAX_ENTRIES:
            raise ValueError(f"{top} holds more than {MAX_ENTRIES} files; name the folder of the models")
        if _is_model(names):
            subfolders.clear()
            yield Path(folder)
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if _is_weights(name))


def _is_model(names: list[str]) -> bool:
    """Whether a folder with these files is a diffusers model, or one network with its config or tokenizer."""
    if "model_index.json" in names:
        return True
    weights = (name for name in names if name.startswith(WEIGHTS))
    told = not {"config.json", "vocab.json"}.isdisjoint(names)
    return told and any(_is_weights(name.removesuffix(".index.json")) for name in weights)


def _is_weights(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
