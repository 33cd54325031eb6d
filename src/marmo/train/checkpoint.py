"""Checkpoints of a training run: one folder each, whole or not there, so that a run may be killed at any moment.

    checkpoints/000000065536/
        model.safetensors               weights of the learner "model", buffers included
        model-optimizer.safetensors     exp_avg.<weight>, exp_avg_sq.<weight>, step.<weight>
        model-average-ema.safetensors   the average "ema"
        state.json                      images seen by every learner; the seed; the config

Nothing in it can run: safetensors and JSON.  A folder gets its name when all of it is on the disk.  Random numbers need
no place of their own: a run draws them anew at every step from its seed and the images seen.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from marmo.files.atomic import atomic_write
from marmo.train.state import Learner, State
from marmo.weights.keymap import shapes
from marmo.weights.store import Tensors, from_state, open_file, write

Facts = Mapping[str, object]
"""JSON that belongs to the run: its seed and config."""

FORMAT = 1


def save(folder: Path, state: State, facts: Facts, keep: int = 2) -> Path:
    """Write a checkpoint below `folder` and drop all but the newest `keep`.

    Raises `ValueError`, and writes nothing, when the last gradients were not finite: what is there must stay good.
    """
    _check_finite(state)
    target = folder / f"{state.images:012d}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{secrets.token_hex(8)}.tmp"
        temporary.mkdir()
        _write(temporary, state, facts)
        _sync(temporary)
        os.replace(temporary, target)
        _sync(folder)
    for old in complete(folder)[:-keep]:
        _drop(old)
    return target


def complete(folder: Path) -> list[Path]:
    """The checkpoints below a folder, the oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def restore(folder: Path, state: State, seed: int) -> bool:
    """Bring `state` to the newest checkpoint below `folder`; False where there is none.

    Raises `ValueError` for one that is damaged or of another network, optimiser or seed.
    """
    found = complete(folder)
    if not found:
        return False
    images = _read_state(found[-1], state, seed)
    for name, learner in state.learners.items():
        _read_learner(found[-1], name, learner)
        learner.images, learner.pending = images[name], 0
    return True


def sweep(folder: Path) -> None:
    """Remove what a killed run had begun to write or to drop."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, state: State, facts: Facts) -> None:
    for name, learner in state.learners.items():
        assert learner.pending == 0, "a checkpoint holds no half of an update"
        write(folder / f"{name}.safetensors", from_state(learner.model.state_dict()))
        write(folder / f"{name}-optimizer.safetensors", from_state(_moments(learner)))
        for title, average in learner.averages.items():
            write(folder / f"{name}-average-{title}.safetensors", from_state(average.model.state_dict()))
    images = {name: learner.images for name, learner in state.learners.items()}
    with atomic_write(folder / "state.json") as stream:
        stream.write(json.dumps({"format": FORMAT, "images": images, **facts}, indent=2).encode())


def _read_state(folder: Path, state: State, seed: int) -> dict[str, int]:
    """The images that each learner has seen."""
    try:
        facts = cast(dict[str, object], json.loads((folder / "state.json").read_bytes()))
        images = cast(dict[str, int], facts["images"])
        found = facts["format"], facts["seed"], sorted(images)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is damaged ({error!r}); remove it to go on from the one before") from None
    wanted = FORMAT, seed, sorted(state.learners)
    if found != wanted:
        raise ValueError(f"{folder} has the format, seed and learners {found}; this run has {wanted}")
    return images


def _read_learner(folder: Path, name: str, learner: Learner) -> None:
    _load(folder / f"{name}.safetensors", learner.model)
    for title, average in learner.averages.items():
        _load(folder / f"{name}-average-{title}.safetensors", average.model)
    _set_moments(learner, open_file(folder / f"{name}-optimizer.safetensors"), folder)


def _load(path: Path, module: torch.nn.Module) -> None:
    tensors, expected = open_file(path), shapes(module)
    if {name: info.shape for name, info in tensors.infos.items()} != expected:
        strange = sorted(tensors.infos.keys() ^ expected.keys()) or ["other shapes"]
        raise ValueError(f"{path} holds another network than this config builds ({strange[0]}, ...)")
    module.load_state_dict({name: tensors.read(name) for name in expected})


def _moments(learner: Learner) -> dict[str, Tensor]:
    """The optimiser's memory by the names of the weights."""
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    memory = cast(Mapping[torch.nn.Parameter, Mapping[str, Tensor]], learner.optimizer.state)
    return {
        f"{kind}.{names[parameter]}": tensor
        for parameter, tensors in memory.items()
        for kind, tensor in tensors.items()
    }


def _set_moments(learner: Learner, tensors: Tensors, folder: Path) -> None:
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    groups = learner.optimizer.param_groups
    order: list[torch.nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
    numbers = {names[parameter]: number for number, parameter in enumerate(order)}
    memory: dict[int, dict[str, Tensor]] = {}
    for entry in tensors.infos:
        kind, _, name = entry.partition(".")
        if name not in numbers:
            raise ValueError(f"{folder} holds an optimiser's memory of {name!r}, which this run does not train")
        number = numbers[name]
        memory.setdefault(number, {})[kind] = _laid_out(tensors.read(entry), order[number])
    learner.optimizer.load_state_dict({"state": memory, "param_groups": learner.optimizer.state_dict()["param_groups"]})


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A copy, since the file may go before the run does; in memory as the parameter is, for optimisers that count on
    it."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor.clone()


def _check_finite(state: State) -> None:
    for name, learner in state.learners.items():
        if not torch.isfinite(learner.norm):
            raise ValueError(
                f"the gradients of {name} are not finite after {learner.images} images, so this is not saved; "
                "start again from the last checkpoint with a lower rate"
            )


def _drop(folder: Path) -> None:
    """Under another name first, so that half of a checkpoint never bears the name of a whole one."""
    doomed = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _sync(folder: Path) -> None:
    """Let the disk have the names in a folder, too; Windows cannot, and does so by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
