"""Stable Diffusion 1 at full size on this machine: a real 2.1 GB file, loaded, painted with, measured.

    python -m benchmarks.full_size          # makes out/sd1.safetensors once; then a picture of 512x512 in 4 steps

The weights are random, so the picture is texture; sizes, memory and times are the real ones.  The dtype is the one that
`marmo.load` chooses: bfloat16 where the processor has it, else float32.
"""

import json
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import tyro

import marmo
from benchmarks.checkpoint import random_checkpoint
from benchmarks.machine import describe, memory
from marmo import catalog


@dataclass(frozen=True)
class Config:
    """Load and paint with a full-size checkpoint of random weights."""

    folder: Path = Path("out")
    """Where the checkpoint lies, or will"""
    side: int = 512
    """Width and height in pixels"""
    steps: int = 4


@dataclass(frozen=True)
class Report:
    """Seconds, and bytes as multiples of the model's size in its target dtype."""

    machine: str
    dtype: str
    model_gib: float
    load_seconds: float
    load_anonymous_share: float
    """Growth of the anonymous memory while loading; at most 1.15"""
    step_seconds: tuple[float, ...]
    """The first includes the text encoder"""
    decode_seconds: float
    total_seconds: float
    peak_gib: float


def main(config: Config) -> None:
    """Measure, print, save the picture."""
    path = config.folder / "sd1.safetensors"
    if not path.exists():
        print(f"making {path}")
        random_checkpoint(path, "full")
    report = measure(path, config)
    for name, value in asdict(report).items():
        print(f"{name:<22} {value}")
    print(json.dumps(asdict(report)))


def measure(path: Path, config: Config) -> Report:
    """One load, one picture."""
    before, started = memory("RssAnon"), time.perf_counter()
    model = catalog.load(path)
    load_seconds, grown = time.perf_counter() - started, memory("RssAnon") - before
    size = sum(parameter.nbytes for network in model.networks.values() for parameter in network.parameters())
    marks: list[float] = []
    request = marmo.ImageRequest(prompt="a red fox", seed=7, width=config.side, height=config.side, steps=config.steps)
    for event in model.stream(request):
        marks.append(time.perf_counter())
        if isinstance(event, marmo.Result):
            event.save_png(config.folder / "full-size.png")
    spans = [round(after - earlier, 2) for earlier, after in pairwise(marks)]
    return Report(
        machine=describe(),
        dtype=str(model.dtype).removeprefix("torch."),
        model_gib=round(size / 2**30, 2),
        load_seconds=round(load_seconds, 2),
        load_anonymous_share=round(grown / size, 3),
        step_seconds=tuple(spans[: config.steps]),
        decode_seconds=spans[-1],
        total_seconds=round(marks[-1] - started, 2),
        peak_gib=round(memory("VmHWM") / 2**30, 2),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
