"""Stable Diffusion at full size on this machine: a real file, loaded, painted with, measured.

    python -m benchmarks.full_size          # makes out/sd1-float16.safetensors once, 2.1 GB; then 512x512 in 4 steps
    python -m benchmarks.full_size --family sdxl --file-dtype float32 --side 256 --steps 1 --guidance-scale 1    # 14 GB

The weights are random, so the picture is texture; sizes, memory and times are the real ones.  The dtype is the one that
`marmo.load` chooses: bfloat16 where the processor has it, else float32.
"""

import json
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import tyro

import marmo
from benchmarks.checkpoint import FamilyName, random_checkpoint
from benchmarks.machine import describe, memory
from marmo import catalog


@dataclass(frozen=True)
class Config:
    """Load and paint with a full-size checkpoint of random weights."""

    folder: Path = Path("out")
    """Where the checkpoint lies, or will"""
    family: FamilyName = "sd1"
    side: int = 512
    """Width and height in pixels"""
    steps: int = 4
    guidance_scale: float = 7.0
    """At 1 the U-Net is asked with one row instead of two"""
    file_dtype: Literal["float16", "float32"] = "float16"
    """Of the file; weights in the dtype that is used are mapped and take no memory of their own"""
    dtype: str | None = None
    """float32, bfloat16 or float16; by default the fastest that is safe"""


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
    path = config.folder / f"{config.family}-{config.file_dtype}.safetensors"
    if not path.exists():
        print(f"making {path}")
        random_checkpoint(path, "full", getattr(torch, config.file_dtype), family=config.family)
    report = measure(path, config)
    for name, value in asdict(report).items():
        print(f"{name:<22} {value}")
    print(json.dumps(asdict(report)))


def measure(path: Path, config: Config) -> Report:
    """One load, one picture."""
    before, started = memory("RssAnon"), time.perf_counter()
    model = catalog.load(path, dtype=config.dtype)
    load_seconds, grown = time.perf_counter() - started, memory("RssAnon") - before
    num_bytes = sum(parameter.nbytes for network in model.networks.values() for parameter in network.parameters())
    marks: list[float] = []
    size = config.side
    request = marmo.ImageRequest(
        prompt="a red fox", seed=7, width=size, height=size, steps=config.steps, guidance_scale=config.guidance_scale
    )
    for event in model.stream(request):
        marks.append(time.perf_counter())
        if isinstance(event, marmo.Result):
            event.save_png(config.folder / "full-size.png")
    spans = [round(after - earlier, 2) for earlier, after in pairwise(marks)]
    return Report(
        machine=describe(),
        dtype=str(model.dtype).removeprefix("torch."),
        model_gib=round(num_bytes / 2**30, 2),
        load_seconds=round(load_seconds, 2),
        load_anonymous_share=round(grown / num_bytes, 3),
        step_seconds=tuple(spans[: config.steps]),
        decode_seconds=spans[-1],
        total_seconds=round(marks[-1] - started, 2),
        peak_gib=round(memory("VmHWM") / 2**30, 2),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
