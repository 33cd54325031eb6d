"""What a user settles once: where models of other programs lie, and wildcards, styles and presets.

    # ~/.config/marmo/settings.toml
    [models]
    default = "v1-5-pruned"
    folders = ["~/models"]
    a1111 = ["~/stable-diffusion-webui"]
    comfyui = ["~/ComfyUI"]
    invokeai = ["~/invokeai"]

    [prompts]
    wildcards = ["~/wildcards"]

The file is $MARMO_SETTINGS, else `marmo/settings.toml` in the user's folder for settings.  None is needed.
"""

import os
import tomllib
from pathlib import Path
from typing import cast

from pydantic import Field, ValidationError

from marmo.request_parts import Schema
from marmo.solver_names import short

MAX_SETTINGS = 1 << 20  # bytes


class ModelPlaces(Schema):
    """Where models lie."""

    default: str | None = Field(default=None, max_length=4096, description="The model of requests that name none")
    folders: tuple[Path, ...] = Field(default=(), description="Folders of models, whoever made them")
    a1111: tuple[Path, ...] = Field(default=(), description="Installations of AUTOMATIC1111's program or of Forge")
    comfyui: tuple[Path, ...] = Field(default=(), description="Installations of ComfyUI, or files of model paths")
    invokeai: tuple[Path, ...] = Field(default=(), description="InvokeAI's root folders")


class PromptPlaces(Schema):
    """Where the parts of prompts lie, beside the folder of the settings itself."""

    wildcards: tuple[Path, ...] = Field(default=(), description="Folders of .txt files")
    styles: tuple[Path, ...] = Field(default=(), description="Files such as styles.csv and styles.toml")
    presets: tuple[Path, ...] = Field(default=(), description="Folders of .toml and .json files")


class Settings(Schema):
    """All of the file."""

    models: ModelPlaces = ModelPlaces()
    prompts: PromptPlaces = PromptPlaces()


def settings_path() -> Path:
    """Where the settings are, whether or not there are any."""
    if chosen := os.environ.get("MARMO_SETTINGS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "marmo" / "settings.toml"


def models_folder() -> Path:
    """Marmo's own folder for models: $MARMO_MODELS, else marmo/models in the user's folder for data."""
    if chosen := os.environ.get("MARMO_MODELS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "marmo" / "models"


def read_settings(path: Path | None = None) -> Settings:
    """The settings, with whole paths; a relative one begins where the file lies.

    Raises `ValueError` for a file that cannot be read or says what no settings can.
    """
    path = settings_path() if path is None else path
    if not path.exists():
        return Settings()
    settings = _parse(path)
    models, prompts = settings.models, settings.prompts
    return Settings(
        models=models.model_copy(update=_whole(models, path.parent)),
        prompts=prompts.model_copy(update=_whole(prompts, path.parent)),
    )


def _parse(path: Path) -> Settings:
    try:
        if not path.is_file() or path.stat().st_size > MAX_SETTINGS:
            raise ValueError(f"settings are a file of at most {MAX_SETTINGS} bytes")
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path}: {_first(error)}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def _first(error: ValidationError) -> str:
    """What is wrong in the first place."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{name}: no such setting"
    return f"{name}: {fault['msg'].replace('Input should', 'must')}, not {short(fault['input'])}"


def _whole(section: Schema, base: Path) -> dict[str, object]:
    """Its lists of paths, each from the root on."""
    lists = {name: cast(tuple[Path, ...], value) for name, value in section if isinstance(value, tuple)}
    return {name: tuple(base / _expanded(path) for path in paths) for name, paths in lists.items()}


def _expanded(path: Path) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
