"""A training run: where it computes, what it writes down, and how it goes on where it was stopped.

    with start(config) as run:
        state = State({"model": Learner(model, optim.adamw(model), batch_size=config.batch_size)})
        run.restore(state)
        for pairs in run.batches(source, state):
            with run.autocast():
                value = loss(model, pairs)
            state.step(value, lr=...)
            if run.every(config.log_images, state):
                run.log(state, loss=value)
            if run.every(config.save_images, state):
                run.save(state)

There is no trainer and there are no callbacks: the loop stands in the recipe.  `torchrun` makes a run of several
processes out of the same lines.  Before every step torch's random numbers begin anew from (seed, rank, images seen),
so a run that was killed and resumed ends with the same bits as one that was not.
"""

import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from marmo.files.atomic import atomic_write
from marmo.files.lock import held
from marmo.nn.device import best_dtype, choose_device
from marmo.train import checkpoint, ranks
from marmo.train.feed import feed
from marmo.train.log import Log, save_sheet
from marmo.train.state import State
from marmo.weights.store import cast as cast_tensors
from marmo.weights.store import from_state, write

Item = TypeVar("Item")

FREE = frozenset(
    {"folder", "device", "workers", "keep", "images", "log_images", "save_images", "sample_images"}
    | {"validate_images", "snapshot_images", "prompts", "guidance_scale", "steps"}
)
"""What of a config may differ when a run resumes: where it lies, what it shows, how long it goes."""


class RunConfig(Protocol):
    """What the Config of every recipe says, a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        ...

    @property
    def images(self) -> int:
        """How many images to see in all."""
        ...

    @property
    def seed(self) -> int: ...

    @property
    def device(self) -> str | None:
        """A torch device; the best there is by default."""
        ...

    @property
    def dtype(self) -> str | None:
        """Of the arithmetic under autocast: float32 or bfloat16; weights are float32 in any case."""
        ...

    @property
    def workers(self) -> int:
        """Threads that read ahead."""
        ...

    @property
    def keep(self) -> int:
        """How many checkpoints stay."""
        ...


class Stopped(KeyboardInterrupt):
    """The run was asked to end and has saved what it had; the message says how to go on."""


class Stop:
    """Set by the first Ctrl-C or SIGTERM; the second one ends the process where it stands."""

    def __init__(self) -> None:
        self.is_set = False

    @contextmanager
    def listening(self) -> Generator[None]:
        """Take the signals until the block ends; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._set) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.write(2, b"\nstopping after this update and saving; once more to stop at once\n")  # print may be busy


@dataclass
class Run:
    """One run in one folder, as one of its processes sees it."""

    config: RunConfig
    device: torch.device
    dtype: torch.dtype
    record: dict[str, object]
    """The config as JSON."""
    started: float = field(default_factory=time.monotonic)
    note: str = ""
    """What the progress bar says."""
    stop: Stop = field(default_factory=Stop)
    """Whether somebody wants the run to end."""
    is_begun: bool = False
    """Whether the folder says whose it is."""

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return ranks.rank() == 0

    def begin(self) -> None:
        """Write the config down, the free fields anew: from here on the folder takes no other one.

        What is to be learnt from has been read by then, so that a command that named it wrongly can be corrected.
        """
        if self.is_main and not self.is_begun:
            _write_json(self.folder / "config.json", self.record)
        self.is_begun = True

    def restore(self, state: State) -> None:
        """Go on from the newest checkpoint of the folder, if there is one, and forget what was logged after it."""
        checkpoint.restore(self.folder / "checkpoints", state, self.config.seed)
        ranks.agree(state.images, "the images seen so far", self.device)
        if self.is_main:
            Log(self.folder).open(state.images)
        ranks.barrier()

    def batches(self, source: Callable[[int], Item], state: State) -> Generator[list[Item]]:
        """This rank's items of every part of a batch, until the config's images are seen.

        Args:
            source: the item at a position of an endless sequence; the same one for the same position, always.
        """
        stride = state.main.batch_size // state.main.accumulate
        size = stride // ranks.num_ranks()
        parts = feed(source, state.position + size * ranks.rank(), size, stride, self.config.workers)
        with closing(parts), self._progress() as progress:
            line = progress.add_task("training", total=self.config.images, completed=state.images)
            while state.images < self.config.images:
                self._heed(state)
                items = next(parts)
                self.begin()
                self._seed(state.position)
                yield items
                progress.update(line, completed=state.images, description=self.note or "training")

    def autocast(self) -> torch.autocast:
        """The run's dtype for the operations that bear it; outside, weights and losses are float32."""
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=enabled)

    def every(self, interval: int, state: State) -> bool:
        """Whether the last update passed a multiple of `interval` images, or was the run's last; 0 is never."""
        at_end = state.images >= self.config.images and state.main.pending == 0 and interval > 0
        return state.passed(interval) or at_end

    def log(self, state: State, **values: Tensor | float) -> None:
        """Write numbers down, averaged over the ranks: all of them must come here.

        Raises `ValueError` for a number that is not finite: whatever comes after it is lost.
        """
        numbers = (value.item() if isinstance(value, Tensor) else value for value in values.values())
        row = dict(zip(values, ranks.means(numbers, self.device), strict=True))
        for name, value in row.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value} after {state.images} images; try a lower learning rate")
        if self.is_main:
            Log(self.folder).write(state.images, row)
        self.note = "  ".join(f"{name} {value:.4g}" for name, value in row.items())

    def sheet(self, state: State, pictures: Tensor, name: str = "samples") -> None:
        """Pictures B 3 H W in [-1, 1] as one PNG file, named after the images seen."""
        if self.is_main:
            save_sheet(self.folder / name / f"{state.images:012d}.png", pictures)

    def save(self, state: State) -> None:
        """Write a checkpoint; nobody goes on before it is on the disk."""
        if self.is_main:
            facts = {"seed": self.config.seed, "config": self.record}
            checkpoint.save(self.folder / "checkpoints", state, facts, self.config.keep)
        ranks.barrier()

    def snapshot(self, state: State) -> None:
        """Keep the main learner's averages as they are now, in half precision, for `ema.reconstruct`."""
        if self.is_main:
            for title, average in state.main.averages.items():
                path = self.folder / "averages" / title / f"{state.images:012d}.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, cast_tensors(from_state(average.model.state_dict()), torch.float16))

    def _heed(self, state: State) -> None:
        """Leave with a checkpoint, between two updates, if any rank was asked to stop."""
        if state.main.pending == 0 and sum(ranks.means([float(self.stop.is_set)], self.device)) > 0:
            if state.images:
                self.save(state)
            raise Stopped(f"stopped after {state.images} images; the same command goes on from there")

    def _seed(self, position: int) -> None:
        digest = hashlib.blake2b(f"{self.config.seed} {ranks.rank()} {position}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest) >> 1)  # pyright: ignore[reportUnknownMemberType]

    def _progress(self) -> Progress:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        return Progress(*columns, console=console, disable=not (self.is_main and console.is_terminal))


@contextmanager
def start(config: RunConfig) -> Generator[Run]:
    """Join the other ranks, open the folder, seed torch; at the end write `done.json`.

    Raises `ValueError` for a device or dtype that is not there, for a folder in which another config has trained, and
    for one in which another run is at work.
    """
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    with ranks.joined(device), ExitStack() as stack:
        run = Run(config, device, dtype, _as_json(config))
        if run.is_main:
            config.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(config.folder))
            _check_folder(run)
            (config.folder / "done.json").unlink(missing_ok=True)
            checkpoint.sweep(config.folder / "checkpoints")
        ranks.barrier()
        torch.manual_seed(config.seed)  # pyright: ignore[reportUnknownMemberType]
        with run.stop.listening():
            yield run
        ranks.barrier()
        if run.is_main:
            run.begin()  # where every image had been seen before
            seconds = round(time.monotonic() - run.started, 1)
            _write_json(config.folder / "done.json", {"images": config.images, "seconds": seconds})


def leave() -> None:
    """End a process that has done its work.

    Of several that talk through gloo, one may abort while Python takes itself apart, with everything already written;
    so these leave without that.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _check_folder(run: Run) -> None:
    """`ValueError` where the folder's config is another one, in more than what is free."""
    folder = run.folder
    path = folder / "config.json"
    known = cast(dict[str, object], json.loads(path.read_bytes())) if path.exists() else run.record
    keys = (known.keys() | run.record.keys()) - FREE
    changed = sorted(key for key in keys if known.get(key) != run.record.get(key))
    if changed:
        was = ", ".join(f"{key} {known.get(key)} and not {run.record.get(key)}" for key in changed)
        raise ValueError(f"{folder} was trained with {was}; choose another folder")


def _as_json(config: RunConfig) -> dict[str, object]:
    return json.loads(json.dumps(asdict(config), default=str))


def _write_json(path: Path, value: dict[str, object]) -> None:
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=2) + "\n").encode())


def _device(name: str | None) -> torch.device:
    """The named device, or this rank's own GPU, or what else there is."""
    if name is None and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    """bfloat16 where the device has it; never float16, whose gradients underflow."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in (None, *dtypes):
        raise ValueError(f"dtype {name!r} cannot be trained in; choose {' or '.join(dtypes)}")
    has_bfloat16 = best_dtype(device) is torch.bfloat16
    if name == "bfloat16" and not has_bfloat16:
        raise ValueError(f"this {device.type} device has no bfloat16 arithmetic; choose float32")
    return dtypes[name] if name else dtypes["bfloat16" if has_bfloat16 else "float32"]
