"""What a run says about itself: lines of JSON, the same numbers for TensorBoard, sheets of pictures.

`log.jsonl` is the truth: a line is appended in one write, and a run that resumes cuts off the lines which it will
write again.  The event file is made from it anew whenever a run starts.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from torch import Tensor

from marmo.files.atomic import atomic_write
from marmo.train import tensorboard


class Log:
    """The lines of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.lines = folder / "log.jsonl"
        self.events = folder / "tensorboard"

    def open(self, images: int) -> None:
        """Forget every line after `images`, also one that a crash cut off, and begin a new event file."""
        rows = [row for row in self.rows() if int(row["images"]) <= images]
        with atomic_write(self.lines) as stream:
            stream.writelines(_line(row) for row in rows)
        self.events.mkdir(exist_ok=True)
        for old in self.events.glob("*tfevents*"):
            old.unlink()
        with atomic_write(self.events / f"events.out.tfevents.{time.time_ns()}.marmo") as stream:
            stream.write(tensorboard.header(time.time()))
            stream.writelines(_event(row) for row in rows)

    def write(self, images: int, values: Mapping[str, float]) -> None:
        """Append numbers to both files."""
        row = {"images": images, "time": round(time.time(), 3), **values}
        _append(self.lines, _line(row))
        for file in self.events.glob("*tfevents*"):
            _append(file, _event(row))

    def rows(self) -> Iterator[dict[str, float]]:
        """All lines that are whole."""
        if not self.lines.exists():
            return
        for line in self.lines.read_bytes().splitlines():
            try:
                yield cast(dict[str, float], json.loads(line))
            except ValueError:
                return  # cut off by a crash: nothing can stand behind it


def sheet(pictures: Tensor, columns: int = 4) -> Image.Image:
    """Pictures side by side, row by row; what is left of the last row is black.  B 3 H W in [-1, 1]."""
    count, channels, height, width = pictures.shape
    rows = ceil(count / columns)
    grid = np.zeros((rows * height, min(columns, count) * width, channels), np.uint8)
    levels = ((pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    for index, picture in enumerate(levels.permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * height, index % columns * width
        grid[top : top + height, left : left + width] = picture
    return Image.fromarray(grid)


def save_sheet(path: Path, pictures: Tensor, columns: int = 4) -> None:
    """A sheet as a PNG file, whole or not at all."""
    stream = BytesIO()
    sheet(pictures, columns).save(stream, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(stream.getvalue())


def _line(row: Mapping[str, float]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _event(row: Mapping[str, float]) -> bytes:
    values = {name: value for name, value in row.items() if name not in ("images", "time")}
    return tensorboard.scalars(row["time"], int(row["images"]), values)


def _append(path: Path, data: bytes) -> None:
    """One write at the end of a file: of two that come at once, neither is torn."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
