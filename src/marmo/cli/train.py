"""`marmo train`: the recipes, each with its presets and flags.

    marmo train clip tiny --data pictures/ --folder out/clip
    marmo train clip base --help                                       every field of its Config
    marmo train clip base --data pictures/ --folder out/clip --dry-run

This reads its own arguments: the flags of a recipe are the fields of its Config, and importing one brings torch.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast

import tyro

RECIPES = {
    "tokenizer": "byte-level BPE of CLIP's form, from captions",
    "clip": "two towers that learn which caption belongs to which picture",
    "oracle": "a network that says what a scene shows",
    "vae": "pictures to small latents and back",
    "latent": "a U-Net that paints latents from texts: a whole model",
    "ddpm": "a U-Net that paints pixels from noise, without words",
}
"""`marmo.recipes.<name>`, which has `presets()` and `main(config)`; and what it trains."""

DRY_RUN = "--dry-run"
MEASURING = ("validate_images",)
"""Intervals of what a recipe does now and then, and a dry run never: it would count as an update's time."""
REHEARSED = 4
"""Updates of a dry run; the first is slower than all others and does not count."""


class Recipe(Protocol):
    """What a recipe's file has."""

    def presets(self) -> Mapping[str, tuple[str, Any]]:
        """Configs by name, each with a line of help."""
        ...

    def main(self, config: Any) -> Path:
        """Train, or go on; returns what it made."""
        ...


@dataclass(frozen=True)
class Train:
    """Train a network by one of the recipes; `marmo train` lists them."""

    arguments: tyro.conf.Positional[tuple[str, ...]] = ()
    """A recipe, a preset of it, and its flags"""

    def run(self) -> int:
        """Find the recipe, read its flags, train."""
        match self.arguments:
            case [name, *rest] if name in RECIPES:
                return train(name, rest)
            case [name, *_] if name not in ("-h", "--help"):
                raise ValueError(f"there is no recipe {name!r}; choose {' or '.join(RECIPES)}")
            case _:
                print(overview())
                return 0


def overview() -> str:
    """The recipes, for people."""
    lines = [f"  {name:<12}{what}" for name, what in RECIPES.items()]
    return "\n".join(["usage: marmo train RECIPE PRESET [flags] [--dry-run]", "", *lines, "", "marmo train RECIPE -h"])


def train(name: str, arguments: Sequence[str]) -> int:
    """Run a recipe with the flags that are left."""
    recipe = cast(Recipe, import_module(f"marmo.recipes.{name}"))
    flags = [argument for argument in arguments if argument != DRY_RUN]
    config = tyro.extras.overridable_config_cli(
        dict(recipe.presets()),
        prog=f"marmo train {name}",
        args=flags,
        description=f"Train {RECIPES[name]}. {DRY_RUN} tells what it would cost.",
    )
    if len(flags) == len(arguments):
        print(recipe.main(config))
        _tell(config.folder)
    else:
        print(rehearsal(recipe.main, config))
    return 0


def _tell(folder: Path) -> None:
    """What became of a run, if it was measured on pictures that were kept apart; `marmo diagnose` tells it again."""
    from marmo.train.diagnosis import diagnose
    from marmo.train.log import Log

    rows = list(Log(folder).rows())
    if any("validation" in row for row in rows):
        print(diagnose(rows), file=sys.stderr)


def rehearsal(main: Callable[[Any], Path], config: Any) -> str:
    """What a training would cost, from a few updates in a folder that is thrown away.

    Raises `ValueError` for a recipe that counts no images.
    """
    if not hasattr(config, "images"):
        raise ValueError("this recipe is done in less time than a forecast takes; leave out --dry-run")
    with TemporaryDirectory() as folder:
        images = REHEARSED * config.batch_size
        intervals = {name: 0 for name in MEASURING if hasattr(config, name)}
        intervals |= {"images": images, "log_images": config.batch_size, "save_images": images}
        short = replace(config, folder=Path(folder), **intervals)
        main(short)
        weights, seconds = _weights(Path(folder)), _seconds_per_update(Path(folder))
    updates = -(-config.images // config.batch_size)
    lines = [
        *(f"{name}: {count:,} parameters" for name, count in weights.items()),
        f"{config.images:,} images, {updates:,} updates of {config.batch_size}",
        f"about {_duration(seconds * updates)}: {config.batch_size / seconds:.0f} images a second, by "
        f"{REHEARSED - 1} updates on this machine as busy as it is",
        _memory(),
    ]
    return "\n".join(lines)


def _weights(folder: Path) -> dict[str, int]:
    """The numbers that each learner trains, from its checkpoint."""
    from marmo.train import checkpoint
    from marmo.weights.store import open_file

    newest = checkpoint.complete(folder / "checkpoints")[-1]
    learners = cast("dict[str, object]", json.loads((newest / "state.json").read_bytes())["images"])
    files = {name: open_file(newest / f"{name}-optimizer.safetensors").infos for name in learners}
    return {
        name: sum(info.num_elements for title, info in infos.items() if title.startswith("exp_avg."))
        for name, infos in files.items()
    }


def _seconds_per_update(folder: Path) -> float:
    """Between the lines of the log, of which there is one for every update."""
    times = [float(json.loads(line)["time"]) for line in (folder / "log.jsonl").read_text().splitlines()]
    return max(median(later - earlier for earlier, later in pairwise(times)), 1e-9)


def _memory() -> str:
    import torch

    if torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):
        return f"at most {most / 1e9:.1f} GB of GPU memory"
    if sys.platform == "win32":
        return "memory is not measured on Windows"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"at most {peak * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB of memory"


def _duration(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
