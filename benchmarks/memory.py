"""The forecast of `marmo generate --estimate` against the memory that painting really takes, size by size.

    python -m benchmarks.memory                                   # Stable Diffusion 1 at full size, guidance on
    python -m benchmarks.memory --mode low --dtype float32

Every size is a process of its own, since memory once taken does not all come back.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.checkpoint import FamilyName
from benchmarks.machine import describe, memory
from marmo.pipelines.residence import Mode


@dataclass(frozen=True)
class Config:
    """Compare expected and measured peak memory."""

    folder: Path = Path("out")
    """Where the checkpoint lies, or will"""
    family: FamilyName = "sd1"
    sides: tuple[int, ...] = (256, 384, 512, 640, 768, 1024)
    """Pictures of side x side pixels"""
    mode: Mode = "full"
    dtype: str | None = None
    """float32, bfloat16 or float16; by default the fastest that is safe"""
    measure: int | None = None
    """Paint one picture of this side in this process and print expected and measured bytes"""


def main(config: Config) -> None:
    """A line per size."""
    path = config.folder / f"{config.family}-float16.safetensors"
    if not path.exists():
        from benchmarks.checkpoint import random_checkpoint

        random_checkpoint(path, "full", family=config.family)
    if config.measure is not None:
        print(*measure(path, config.measure, config.mode, config.dtype))
        return
    print(describe())
    command = [sys.executable, "-m", "benchmarks.memory", "--folder", str(config.folder), "--family", config.family]
    command += ["--mode", config.mode, *(["--dtype", config.dtype] if config.dtype else [])]
    for side in config.sides:
        words = subprocess.run([*command, "--measure", str(side)], capture_output=True, text=True, check=True).stdout
        expected, measured = (int(word) / 2**30 for word in words.split()[-2:])
        print(f"{side:>5}: expected {expected:6.2f} GiB, measured {measured:6.2f} GiB, {expected / measured - 1:+.0%}")


def measure(path: Path, side: int, mode: Mode, dtype: str | None) -> tuple[int, int]:
    """Expected bytes, and the peak of one step and a decoding."""
    import marmo
    from marmo import catalog
    from marmo.pipelines.footprint import expected_memory

    model = catalog.load(path, dtype=dtype, memory=mode)
    request = marmo.ImageRequest(prompt="a red fox", seed=0, width=side, height=side, steps=1)
    model.generate(request)
    measured = memory("VmHWM")  # before the rehearsal, which takes memory itself
    return expected_memory([model.card], model.resolve(request), model.dtype, mode), measured


if __name__ == "__main__":
    main(tyro.cli(Config))
