"""Marmo beside diffusers on the same weights, in one run, by turns: medians and their ratios.

    python -m benchmarks.compare                                  # everything, full size, 512x512
    python -m benchmarks.compare --only unet load --rounds 5      # some of it

The checkpoint is made once (random weights); both read the same diffusers folder.  Warm figures alternate in one
process; those from the start of a process are processes by turns, with the files in the page cache.  A ratio below 1 is
Marmo ahead.  Marmo's sha256 of the weights is remembered from an earlier run.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import tyro

from benchmarks.machine import describe

Figure = Literal["text", "unet", "encode", "decode", "load", "start"]
Pair = tuple[Callable[[], object], Callable[[], object]]
PROMPT = "a photograph of a red fox in the snow"


@dataclass(frozen=True)
class Config:
    """Time Marmo and diffusers by turns."""

    folder: Path = Path("out")
    """Where the checkpoint lies, or will"""
    size: Literal["toy", "full"] = "full"
    side: int = 512
    """Width and height in pixels"""
    rounds: int = 3
    only: tuple[Figure, ...] = ("text", "unet", "encode", "decode", "load", "start")


@dataclass(frozen=True)
class Row:
    """One figure: medians of both, and how Marmo's stands to diffusers'."""

    name: str
    marmo: float
    diffusers: float
    unit: str = "s"

    @property
    def ratio(self) -> float:
        return self.marmo / self.diffusers


def main(config: Config) -> None:
    """Measure what is asked for, print a table and one line of JSON."""
    folder = prepare(config)
    rows: list[Row] = []
    if "start" in config.only:  # first, while this process holds no model
        rows += starts(folder, config)
    rows += [timed(name, pair, config.rounds) for name, pair in warm(folder, config).items() if name in config.only]
    print(describe())
    print(f"{'':<34}{'Marmo':>10}{'diffusers':>11}{'ratio':>8}")
    for row in rows:
        print(f"{row.name:<34}{row.marmo:>8.3f} {row.unit:<3}{row.diffusers:>7.3f} {row.unit:<3}{row.ratio:>6.2f}")
    print(json.dumps({"machine": describe(), "rows": [vars(row) | {"ratio": round(row.ratio, 3)} for row in rows]}))


def prepare(config: Config) -> Path:
    """The diffusers folder that both read, float32 as both compute."""
    import torch

    from benchmarks.checkpoint import random_checkpoint

    folder = config.folder / f"compare-{config.size}"
    if not (folder / "model_index.json").exists():
        random_checkpoint(folder, config.size, torch.float32)
    return folder


def timed(name: str, pair: Pair, rounds: int) -> Row:
    """Each once to warm up, then by turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for function in pair:
        function()
    for _ in range(rounds):
        for function, marks in zip(pair, seconds, strict=True):
            started = time.perf_counter()
            function()
            marks.append(time.perf_counter() - started)
    return Row(name, *(median(marks) for marks in seconds))


def warm(folder: Path, config: Config) -> Mapping[str, Pair]:
    """The same work for both, once everything is in memory."""
    if set(config.only) <= {"start"}:
        return {}
    import torch

    from marmo import catalog

    torch.set_grad_enabled(False)
    ours = catalog.load(folder, device="cpu", dtype="float32")
    theirs = _peer(folder)
    latents = config.side // 8
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([theirs.tokenizer(PROMPT, padding="max_length", max_length=77).input_ids])
    x = torch.randn(2, 4, latents, latents, generator=generator)
    pixels = torch.randn(1, 3, config.side, config.side, generator=generator)
    t = torch.tensor([500.0, 500.0])
    text = ours.networks["text"]
    states = text(ids)
    context, tokens = ours.unet.project(states), states.expand(2, -1, -1)
    return {
        "text": (lambda: text(ids), lambda: theirs.text_encoder(ids)),
        "unet": (lambda: ours.unet(x, t, context), lambda: theirs.unet(x, t, tokens)),
        "encode": (lambda: ours.vae.encode(pixels), lambda: theirs.vae.encode(pixels)),
        "decode": (lambda: ours.vae.decode(x[:1]), lambda: theirs.vae.decode(x[:1])),
        "load": (lambda: catalog.load(folder, device="cpu", dtype="float32"), lambda: _peer(folder)),
    }


def _peer(folder: Path) -> Any:
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, safety_checker=None
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def starts(folder: Path, config: Config) -> list[Row]:
    """From the start of a process to its first evaluation and to a saved picture; and its peak memory."""
    names = ("first evaluation begins", "first evaluation ends", "first picture, 4 steps", "peak memory")
    runs: tuple[list[Sequence[float]], list[Sequence[float]]] = ([], [])
    for _ in range(config.rounds):
        for program, marks in zip(("marmo", "diffusers"), runs, strict=True):
            marks.append(_start(program, folder, config.side))
    columns = [[median(values) for values in zip(*marks, strict=True)] for marks in runs]
    rows = [
        Row(f"start to {name}" if unit == "s" else name, ours, theirs, unit)
        for name, unit, ours, theirs in zip(names, ("s", "s", "s", "GiB"), *columns, strict=True)
    ]
    return rows


def _start(program: str, folder: Path, side: int) -> Sequence[float]:
    """Spawn `benchmarks/cold.py`; it prints the moments that it reaches."""
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.cold", program, str(folder), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *moments, peak = (float(word) for word in done.stdout.split()[-4:])
    return [*(moment - started for moment in moments), peak / 2**30]


if __name__ == "__main__":
    main(tyro.cli(Config))
