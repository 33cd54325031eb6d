"""What a stream yields: stages, steps and, at its end, the result.

Shapes: B pictures, C channels, H W height and width of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from marmo.files.pictures import save_picture
from marmo.files.record import Record

if TYPE_CHECKING:  # `import marmo` shall not import torch
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Stage:
    """A part of the work begins that has no steps of its own."""

    name: Literal["loading", "encoding", "upscaling", "decoding"]


@dataclass(frozen=True)
class Step:
    """The network was asked once.  Heun asks twice in most steps and so shows the same index twice."""

    index: int
    total: int
    sigma: float
    x0: Tensor
    """What the network believes the clean latents to be: B C H W, float32."""
    decode_preview: Callable[[Tensor], list[Image]]

    def preview(self) -> list[Image]:
        """Small pictures of x0, one per image; made only when asked for."""
        return self.decode_preview(self.x0)


@dataclass(frozen=True)
class Result:
    """The pictures and, for each, the record that makes it again."""

    images: tuple[Image, ...]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
    """What the user should know, a sentence each: the end of a prompt that no token was left for."""

    def save_png(self, path: str | Path, index: int = 0) -> None:
        """Write one picture with its record; `path` may also end in .jpg, .jpeg or .webp."""
        save_picture(Path(path), self.images[index], self.records[index])


Event = Stage | Step | Result
