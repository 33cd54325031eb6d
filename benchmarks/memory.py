"""The forecast of `marmo generate --estimate` against the memory that painting really takes, size by size.

    python -m benchmarks.memory                       # full size, guidance on, one picture

Every size is a process of its own, since memory once taken does not all come back.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.machine import describe, memory


@dataclass(frozen=True)
class Config:
    """Compare expected and measured peak memory."""

    folder: Path = Path("out")
    """Where the checkpoint lies, or will"""
    sides: tuple[int, ...] = (256, 384, 512, 640, 768)
    """Pictures of side x side pixels"""
    measure: int | None = None
    """Paint one picture of this side in this process and print expected and measured bytes"""


def main(config: Config) -> None:
    """A line per size."""
    path = config.folder / "sd1-float16.safetensors"
    if not path.exists():
        from benchmarks.checkpoint import random_checkpoint

        random_checkpoint(path, "full")
    if config.measure is not None:
        print(*measure(path, config.measure))
        return
    print(describe())
    for side in config.sides:
        command = [sys.executable, "-m", "benchmarks.memory", "--folder", str(config.folder), "--measure", str(side)]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        expected, measured = (int(word) / 2**30 for word in words[-2:])
        print(f"{side:>5}: expected {expected:6.2f} GiB, measured {measured:6.2f} GiB, {expected / measured - 1:+.0%}")


def measure(path: Path, side: int) -> tuple[int, int]:
    """Expected bytes, and the peak of one step and a decoding."""
    import marmo
    from marmo.pipelines.forecast import expected_memory

    model = marmo.load(path)
    request = marmo.ImageRequest(prompt="a red fox", seed=0, width=side, height=side, steps=1)
    expected = expected_memory(model.card, model.resolve(request), model.dtype)
    model.generate(request)
    return expected, memory("VmHWM")


if __name__ == "__main__":
    main(tyro.cli(Config))
