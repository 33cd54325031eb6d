"""Where a latent model's pictures come from: scenes without end, people's collections; and what it is examined with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from marmo.data.cache import TensorCache
from marmo.data.latents import RowSource, encoded, kept_on_disk
from marmo.data.scene_source import scene_source
from marmo.data.selection import Selection
from marmo.data.source import Source
from marmo.data.splits import Split
from marmo.train.lessons import Lessons


class Data(NamedTuple):
    """What is learnt from, and what the network is examined with."""

    rows: RowSource
    exams: Mapping[str, RowSource]
    num_pictures: int = 0
    """Pictures to learn from; 0 where there is no end of them."""

    def epochs(self, images: int) -> dict[str, float]:
        """How often each picture was seen."""
        return {"epoch": images / self.num_pictures} if self.num_pictures else {}


def scenes(
    seed: int, size: int, split: Split, device: torch.device, selection: Selection, begin: Selection, easy: int = 0
) -> Source:
    """Marmo's scenes, the first `easy` of them of the selection to begin with."""
    every, few = (scene_source(seed, size, split, device, selection=chosen) for chosen in (selection, begin))
    return lambda position: (few if position < easy else every)(position)[:2]


def endless(lessons: Lessons, source: Source, held: Source | None, window: int, repeats: int, seed: int) -> Data:
    """Pictures that do not come again by themselves, and others like them that are not learnt from."""
    rows = encoded(source, lessons.encode, lessons.read, window, repeats, seed)
    if held is None:
        return Data(rows, {})
    unseen = encoded(held, lessons.encode, lessons.read, window, 1, seed)
    return Data(rows, {"validation": unseen, "validation_train": rows})


@dataclass(frozen=True, eq=False)
class Collection:
    """Captioned pictures at a path, of which some are held out; what the encoders made of them is kept."""

    path: Path
    lessons: Lessons
    cache: TensorCache
    size: int
    """Pixels along the side of a square, or of one with a bucket's area."""
    held_out: int
    seed: int

    def squares(self) -> Data:
        """Their middles."""
        from marmo.data import pictures  # reads picture records, too, and so needs pydantic

        items = pictures.open_items(self.path)
        held = pictures.held_out(len(items), self.held_out)
        learnt = [index for index in range(len(items)) if index not in held]
        rows = self._rows(pictures.some_pictures(items, learnt, seed=self.seed, size=self.size))
        if not held:
            return Data(rows, {}, len(learnt))
        unseen = self._rows(pictures.some_pictures(items, sorted(held), seed=self.seed, size=self.size))
        return Data(rows, {"validation": unseen, "validation_train": rows}, len(learnt))

    def buckets(self, step: int, multiple: int, batch_size: int) -> Data:
        """The pictures in the shapes that fit them; examined are squares.

        Args:
            step: all sides are multiples of it, and it of `multiple`.
            batch_size: pictures of one shape that follow each other.
        """
        from marmo.data import pictures
        from marmo.data.buckets import bucket_of, bucket_sizes
        from marmo.data.defects import survey

        if step % multiple:
            raise ValueError(f"the sides of buckets are multiples of {multiple} for these networks, not of {step}")
        items = pictures.open_items(self.path)
        held, found = pictures.held_out(len(items), self.held_out), survey(items)
        sizes = tuple(None if index in held else size for index, size in enumerate(found.sizes))
        shapes = bucket_sizes(self.size**2, step, self.size // 2, self.size * 2)
        fitted = pictures.bucketed(
            items,
            replace(found, sizes=sizes),
            lambda size: bucket_of(size, shapes),
            batch_size=batch_size,
            seed=self.seed,
        )
        return self.squares()._replace(rows=self._rows(fitted))

    def _rows(self, source: Source) -> RowSource:
        return kept_on_disk(source, self.lessons.encode, self.lessons.read, self.cache, self.lessons.encoders)
