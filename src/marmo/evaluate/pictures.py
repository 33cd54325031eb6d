"""From a folder, or from anything that yields pictures, to pictures that can be measured.

    pictures = open_pictures(Path("out"))
    for picture in pictures: ...                # in the order of their names, to any depth
    pictures.defects                            # what could not be read, by name; known after a pass

What opens is what training opens (`marmo.data.pictures.open_items`): folders, tars, folders of `datasets`.  A picture
that cannot be read is passed over, named and counted; nothing is resized here, that is the feature space's business.

The prompt of a picture is what stands beside it (`fox.txt`, `metadata.jsonl`), else what its own record says, else the
prompt of A1111's infotext.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from marmo.data.defects import Defect, examine_picture
from marmo.data.item import Items
from marmo.data.pictures import open_items
from marmo.files.pictures import find_prompt


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, and what is known of it."""

    name: str
    pixels: Tensor
    """uint8 3 H W"""
    caption: str | None = None
    """What stands beside it."""
    file: bytes = field(default=b"", repr=False)

    @cached_property
    def prompt(self) -> str | None:
        """What stands beside it, else inside it; looked for when it is asked for, since most measures need none."""
        return self.caption or (find_prompt(self.file) if self.file else None)


class PictureSet:
    """Pictures of a collection, read anew at every pass.

    Args:
        limit: take no more than the first so many that can be read.
    """

    def __init__(self, items: Items, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"at least one picture must be measured, not {limit}")
        self.items, self.limit = items, limit
        self.defects: dict[str, tuple[Defect, ...]] = {}
        """What was found so far, by the names of the entries."""

    def __iter__(self) -> Iterator[Picture]:
        count = 0
        for index in range(len(self.items)):
            if count == self.limit:
                return
            picture = self._read(index)
            if picture is not None:
                count += 1
                yield picture

    @property
    def skipped(self) -> list[Defect]:
        """Why some entries were passed over, so far."""
        return [defect for found in self.defects.values() for defect in found if defect.skips]

    def digest(self) -> str:
        """SHA-256 over the files of all pictures, in order: another picture or order is another collection."""
        whole = hashlib.sha256(f"limit {self.limit}\n".encode())
        for index in range(len(self.items)):
            try:
                whole.update(hashlib.sha256(self.items.item(index).picture).digest())
            except ValueError:
                whole.update(b"unreadable")
        return whole.hexdigest()

    def _read(self, index: int) -> Picture | None:
        name = self.items.name(index)
        try:
            item = self.items.item(index)
        except ValueError as error:
            self.defects[name] = (Defect(name, "unreadable", str(error)),)
            return None
        seen = examine_picture(item, min_side=1)
        if seen.defects:
            self.defects[name] = seen.defects
        if seen.picture is None:
            return None
        return Picture(name, as_pixels(seen.picture), seen.caption, item.picture)


def open_pictures(path: Path, limit: int | None = None) -> PictureSet:
    """What lies at a path; `ValueError` where there is no collection."""
    return PictureSet(open_items(path), limit)


def in_memory(pictures: Iterable[Image.Image | Tensor], prompts: Iterable[str] | None = None) -> Iterator[Picture]:
    """Pictures that a program holds, by number: of Pillow, or uint8 3 H W."""
    texts = iter(prompts) if prompts is not None else None
    for number, picture in enumerate(pictures):
        pixels = as_pixels(picture) if isinstance(picture, Image.Image) else picture
        if pixels.dtype is not torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise ValueError(f"a picture is uint8 of shape [3, H, W], not {pixels.dtype} of {list(pixels.shape)}")
        yield Picture(str(number), pixels, None if texts is None else next(texts))


def as_pixels(picture: Image.Image) -> Tensor:
    """A picture of Pillow as uint8 3 H W."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)  # pyright: ignore[reportUnknownMemberType]
