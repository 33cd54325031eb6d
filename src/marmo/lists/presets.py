"""Presets: parts of a request in files, JSON or TOML, under the file's name."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

MAX_FILE = 1 << 26  # bytes; a preset may hold a picture in base64
SUFFIXES = (".toml", ".json")


def read_preset(name: str, folders: Sequence[Path]) -> dict[str, object]:
    """The fields that a preset sets: of a file, or of the first that is called so in one of the folders.

    The values are checked with the whole request.  Raises `ValueError` for what is not there or no such file.
    """
    path = _find(name, folders)
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE} bytes")
        text = path.read_text(encoding="utf-8")
        values: object = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no preset: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no preset: it holds no fields of a request")
    return cast(dict[str, object], values)


def over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """The fields of both; where both have one the upper's, and field by field where it has fields of its own."""
    joined = dict(below)
    for name, value in above.items():
        old = joined.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            joined[name] = over(cast(Mapping[str, object], old), cast(Mapping[str, object], value))
        else:
            joined[name] = value
    return joined


def _find(name: str, folders: Sequence[Path]) -> Path:
    if Path(name).suffix in SUFFIXES:
        return Path(name).expanduser()
    for folder in folders:
        for suffix in SUFFIXES:
            if "/" not in name and "\\" not in name and (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    known = sorted({file.stem for folder in folders for file in folder.glob("*") if file.suffix in SUFFIXES})
    raise ValueError(f"there is no preset {name!r}; there are {', '.join(known) if known else 'none'}")
