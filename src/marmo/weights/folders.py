"""Weights in the folders of diffusers and transformers: one file, a variant of it, or shards and their index."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from marmo.files.atomic import atomic_write
from marmo.weights.store import (
    MAX_HEADER,
    PICKLE,
    TensorInfo,
    Tensors,
    blaming,
    is_text_map,
    join,
    map_file,
    open_file,
    parse_json,
    write,
)


def _pattern(stems: str, suffix: str) -> re.Pattern[str]:
    """The names of weight files.  The variant stands in any of three places; a shard is not a variant."""
    return re.compile(
        rf"""
        (?: {stems} )
        (?: \. (?! .* -\d{{5}}-of-\d{{5}} ) ([^.]+) )?    # model.fp16.safetensors
        \.{suffix}
        (?: (?: \.([^.]+) )?                            # model.safetensors.fp16.index.json, from older diffusers
            \.index
            (?: \.([^.]+) )? \.json )?                  # model.safetensors.index.fp16.json
        """,
        re.VERBOSE,
    )


_PART = _pattern("diffusion_pytorch_model | model", "safetensors")
_LEGACY_PART = _pattern("diffusion_pytorch_model | pytorch_model", "bin")
# Plain names, which cannot lead out of the folder.
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
_LEGACY_SHARD = re.compile(r"\w[\w.-]*\.bin")
_PICKLE_SUFFIXES = {".ckpt", ".pt", ".pth"}

Opener = Callable[[Path], Tensors]
"""What opens one weight file: `store.open_file`, which refuses pickles, or `legacy.WeightFiles.open`."""


def open_part(folder: Path, variant: str | None = None, opener: Opener = open_file) -> Tensors:
    """The weights in one component's folder of a diffusers or transformers model, in one file or in shards.

    Pickles are looked at where there is no safetensors file.

    Args:
        variant: "fp16" and the like; without one, the plain weights, or the only variant where there are none.
    """
    path = _choose(folder, variant)
    return _open_shards(path, opener) if path.suffix == ".json" else opener(path)


def part_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The weight files that `open_part` opens."""
    path = _choose(folder, variant)
    if path.suffix != ".json":
        return (path,)
    return tuple(folder / name for name in sorted(set(_read_index(path).values())))


def write_sharded(folder: Path, stem: str, tensors: Tensors, max_bytes: int, variant: str | None = None) -> None:
    """Write files of at most `max_bytes` and their index as `save_pretrained` does; or one file, if that is enough.

    A larger tensor has a file of its own.  The index comes last: shards without one are not mistaken for a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if held := _weights(folder).get(variant or ""):
        raise ValueError(f"{folder} already holds {held[0].name}; remove it or choose another folder")
    suffix = f".{variant}" if variant else ""
    shards = _split(tensors, max_bytes)
    count = len(shards)
    numbers = [f"-{index:05d}-of-{count:05d}" for index in range(1, count + 1)] if count > 1 else [""]
    files = {f"{stem}{suffix}{number}.safetensors": shard for number, shard in zip(numbers, shards, strict=True)}
    for file, shard in files.items():
        # Some versions of transformers refuse a file that does not state its format.
        write(folder / file, shard, {"format": "pt", **shard.metadata})
    if count > 1:
        _write_index(folder / f"{stem}.safetensors.index{suffix}.json", files)


def _weights(folder: Path, pattern: re.Pattern[str] = _PART) -> dict[str, list[Path]]:
    """The files in a folder that can be opened, by variant; that of plain weights is ""."""
    found: dict[str, list[Path]] = {}
    with blaming(folder):
        for path in sorted(folder.iterdir()):
            if match := pattern.fullmatch(path.name):
                variant = next(filter(None, match.groups()), "")
                found.setdefault(variant, []).append(path)
    return found


def _choose(folder: Path, variant: str | None) -> Path:
    found = _weights(folder) or _weights(folder, _LEGACY_PART)
    if not found:
        raise ValueError(f"{folder}: {_why_empty(folder)}")
    if variant is None and len(found) == 1:
        (variant,) = found
    paths = found.get(variant or "", [])
    if not paths:
        wanted = f"variant {variant!r}" if variant else "weights without a variant"
        known = [repr(name) if name else "none" for name in found]
        raise ValueError(f"{folder} has no {wanted}; the variant may be {' or '.join(known)}")
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise ValueError(f"{folder} has the same weights twice, {names}; remove one")
    return paths[0]


def _why_empty(folder: Path) -> str:
    for path in sorted(folder.iterdir()):
        if path.suffix in _PICKLE_SUFFIXES:
            return f"{path.name} is {PICKLE}"
    return "it has no model.safetensors, no diffusion_pytorch_model.safetensors, and no index of either"


def _open_shards(index: Path, opener: Opener) -> Tensors:
    """The files that an index names, which must hold exactly the tensors that it gives to them."""
    weight_map = _read_index(index)
    shards = {file: opener(index.parent / file) for file in sorted(set(weight_map.values()))}
    held = {(name, file) for file, shard in shards.items() for name in shard.infos}
    if contested := held ^ weight_map.items():
        name, file = min(contested)
        verb = "holds" if (name, file) in held else "does not hold"
        raise ValueError(f"{index}: {file} {verb} {name!r}, and the index says otherwise")
    return join(*shards.values())


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    with blaming(path):
        weight_map = parse_json(map_file(path)[: MAX_HEADER + 1]).get("weight_map")
        shard = _LEGACY_SHARD if _LEGACY_PART.fullmatch(path.name) else _SHARD
        if not is_text_map(weight_map) or not all(map(shard.fullmatch, weight_map.values())):
            raise ValueError("its weight_map does not give every tensor a weight file of this folder")
    return weight_map


def _write_index(path: Path, shards: Mapping[str, Tensors]) -> None:
    total_size = sum(info.num_bytes for shard in shards.values() for info in shard.infos.values())
    weight_map = {name: file for file, shard in shards.items() for name in shard.infos}
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    with atomic_write(path) as file:
        file.write(json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")


def _split(tensors: Tensors, max_bytes: int) -> list[Tensors]:
    """Shards in the given order, divided as huggingface_hub does; at least one."""
    done: list[dict[str, TensorInfo]] = []
    shard: dict[str, TensorInfo] = {}
    room = max_bytes
    for name, info in tensors.infos.items():
        if info.num_bytes > max_bytes:
            done.append({name: info})
            continue
        if info.num_bytes > room:
            done.append(shard)
            shard, room = {}, max_bytes
        shard[name] = info
        room -= info.num_bytes
    return [Tensors(infos, tensors.read, tensors.metadata, tensors.maps) for infos in (*done, shard) if infos] or [
        tensors
    ]
