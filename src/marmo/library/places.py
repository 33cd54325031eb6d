"""Where models may lie: Marmo's own folder, those of other programs, and the cache of the Hugging Face hub.

What the other programs' own files say is read as data: ComfyUI's extra_model_paths.yaml, InvokeAI's invokeai.yaml and
its database (table `models`, a JSON `config` with a `path` per row), which is opened for reading alone.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import yaml

from marmo.files.settings import Settings, models_folder
from marmo.library import bundled

Origin = Literal["bundled", "marmo", "folder", "a1111", "comfyui", "invokeai", "hub"]

MAX_YAML = 1 << 20  # bytes
NO_FOLDERS = {"base_path", "is_default", "custom_nodes"}
"""What stands beside the folders in a section of extra_model_paths.yaml."""


@dataclass(frozen=True)
class Place:
    """A folder to look through, or one file."""

    origin: Origin
    path: Path


def places(settings: Settings, more: Sequence[Path] = ()) -> Iterator[Place]:
    """All places, the nearest first.

    Args:
        more: folders that were named for this time.

    Raises `ValueError` for a folder that was named and is not there.
    """
    yield Place("bundled", bundled.MODELS)
    yield Place("marmo", models_folder())
    models = settings.models
    for path in (*more, *models.folders):
        yield Place("folder", _there(path))
    for root in models.a1111:
        yield from (Place("a1111", _there(root) / name) for name in ("models", "embeddings"))
    for root in models.comfyui:
        yield from (Place("comfyui", path) for path in _comfyui(_there(root)))
    for root in models.invokeai:
        yield from (Place("invokeai", path) for path in _invokeai(_there(root)))
    yield from (Place("hub", snapshot) for snapshot in sorted(hub_cache().glob("models--*/snapshots/*")))


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched, by its own rules."""
    if chosen := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return (Path(home).expanduser() if home else cache) / "hub"


def _there(path: Path) -> Path:
    path = path.expanduser()
    if not path.exists():
        raise ValueError(
            f"{path} is named as a place of models, and nothing is there; mend the settings or --models-dir"
        )
    return path


def _comfyui(root: Path) -> Iterator[Path]:
    """Of an installation its own folder and those that its extra_model_paths.yaml names; or of such a file alone."""
    if root.is_file():
        yield from _extra_paths(root)
        return
    yield root / "models"
    if (root / "extra_model_paths.yaml").is_file():
        yield from _extra_paths(root / "extra_model_paths.yaml")


def _extra_paths(file: Path) -> Iterator[Path]:
    """Every folder of every section: a path a line, below the section's base_path."""
    for section in _read_yaml(file).values():
        entries = cast(dict[object, object], section) if isinstance(section, dict) else {}
        base = file.parent / _expanded(str(entries.get("base_path") or ""))
        for key, value in entries.items():
            if key not in NO_FOLDERS and isinstance(value, str):
                yield from (base / _expanded(line.strip()) for line in value.splitlines() if line.strip())


def _invokeai(root: Path) -> Iterator[Path]:
    """Its folder of models, and what was installed without being copied there."""
    models = root / "models"
    if (root / "invokeai.yaml").is_file():
        said = _read_yaml(root / "invokeai.yaml").get("models_dir")
        models = root / _expanded(said) if isinstance(said, str) else models
    yield models
    database = root / "databases" / "invokeai.db"
    if database.is_file():
        yield from (models / path for path in _installed(database))


def _installed(database: Path) -> list[str]:
    """The paths of the table `models`; those below its folder of models are relative to it."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT config FROM models").fetchall()
        configs = [json.loads(text) for (text,) in rows]
    except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{database} is no database of InvokeAI: {error}") from None
    paths = [cast(dict[str, object], config).get("path") for config in configs if isinstance(config, dict)]
    return [path for path in paths if isinstance(path, str)]


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _read_yaml(file: Path) -> dict[object, object]:
    try:
        if file.stat().st_size > MAX_YAML:
            raise ValueError(f"it has more than {MAX_YAML} bytes")
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    return cast(dict[object, object], value) if isinstance(value, dict) else {}
