"""Users' collections as a source: pictures of one size, or of the bucket that fits each, with their captions.

    source = open_pictures(Path("pictures"), seed=0, size=256)
    picture, caption = source(0)

An entry that cannot be used never stops a run: the next one takes its place, a warning names it once, and
`source.defects` has all that was found.
"""

import logging
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from marmo.data.arrow import Arrow
from marmo.data.buckets import Size
from marmo.data.defects import MIN_SIDE, Defect, Examined, Survey, examine_at
from marmo.data.folder import Folder
from marmo.data.item import Items
from marmo.data.order import BucketShuffle, Shuffle
from marmo.data.source import Pair
from marmo.data.tags import Wording, word
from marmo.data.webdataset import Tars

HELD_OUT_SEED = -4
"""Of the order whose first entries are held out; trainings count their seeds from 0."""

LOGGER = logging.getLogger(__name__)


class Pictures:
    """A collection as a source, see `marmo.data.source`; `open_pictures` and `bucketed` make them.

    Args:
        order: position -> the number of an entry.
        size_of: the number of an entry -> the size in which it is trained; `None` for one that cannot be used.
        needs_captions: without, a picture of which nothing is said is used, too, and its caption is empty.
    """

    def __init__(
        self,
        items: Items,
        order: Callable[[int], int],
        size_of: Callable[[int], Size | None],
        *,
        seed: int,
        wording: Wording,
        min_side: int,
        needs_captions: bool = True,
    ) -> None:
        self.items, self.order, self.size_of = items, order, size_of
        self.seed, self.wording, self.min_side = seed, wording, min_side
        self.needs_captions = needs_captions
        self.defects: dict[str, tuple[Defect, ...]] = {}
        """What was found so far, by the names of the entries."""

    def __call__(self, position: int) -> Pair:
        """The picture, 3 H W in [-1, 1], and the caption at a position."""
        first = self.order(position)
        size = self.size_of(first)
        assert size is not None, "an order names what can be used"
        for index in chain(range(first, len(self.items)), range(first)):
            if self.size_of(index) == size:
                entry = self._examine(index)
                if entry.picture is not None:
                    caption = word(entry.caption, self.wording, self.seed, position)
                    return as_tensor(entry.picture, size), caption
        raise ValueError(f"none of {len(self.items)} entries can be used: {self._first()}")

    def _examine(self, index: int) -> Examined:
        entry = examine_at(self.items, index, self.min_side, self.needs_captions)
        name = self.items.name(index)
        if entry.defects and name not in self.defects:
            self.defects[name] = entry.defects
            for defect in entry.defects:
                if defect.skips:
                    LOGGER.warning("%s is passed over: %s, %s", name, defect.kind, defect.detail)
        return entry

    def _first(self) -> str:
        defect = next(defect for found in self.defects.values() for defect in found if defect.skips)
        return f"{defect.name}: {defect.kind}: {defect.detail}"


def open_items(path: Path) -> Items:
    """What lies at a path: a tar, a folder of tars, a folder of `datasets`, a folder of pictures.

    Raises `ValueError` where there is none of these.
    """
    if path.is_file() and path.suffix == ".tar":
        return Tars([path])
    if not path.is_dir():
        raise ValueError(f"{path} is no collection: neither a .tar nor a folder")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return Arrow(path)
    if tars := sorted(path.glob("*.tar")):
        return Tars(tars)
    return Folder(path)


def open_pictures(
    path: Path,
    *,
    seed: int,
    size: int,
    wording: Wording | None = None,
    min_side: int = MIN_SIDE,
    needs_captions: bool = True,
) -> Pictures:
    """Squares of `size` pixels, the middles of the pictures at a path."""
    items = open_items(path)
    order = Shuffle(len(items), seed)
    return Pictures(
        items,
        order,
        lambda index: (size, size),
        seed=seed,
        wording=wording or Wording(),
        min_side=min_side,
        needs_captions=needs_captions,
    )


def held_out(count: int, wanted: int) -> frozenset[int]:
    """Which of `count` entries are not learnt from, always the same: `wanted` of them, and at most every tenth."""
    order = Shuffle(count, HELD_OUT_SEED)
    return frozenset(order(place) for place in range(min(wanted, count // 10)))


def some_pictures(items: Items, chosen: Sequence[int], *, seed: int, size: int) -> Pictures:
    """Squares of `size` pixels from some entries of a collection, by their numbers."""
    order, among = Shuffle(len(chosen), seed), frozenset(chosen)
    return Pictures(
        items,
        lambda position: chosen[order(position)],
        lambda index: (size, size) if index in among else None,
        seed=seed,
        wording=Wording(),
        min_side=MIN_SIDE,
    )


def bucketed(
    items: Items,
    survey: Survey,
    rule: Callable[[Size], Size],
    *,
    batch_size: int,
    seed: int,
    wording: Wording | None = None,
    min_side: int = MIN_SIDE,
) -> Pictures:
    """Pictures in the sizes that fit them; those of one batch have one size.

    Args:
        survey: of these items; what it passes over is not drawn.
        rule: a picture's size -> its bucket, see `marmo.data.buckets`.
        batch_size: images of all ranks, or of one of the parts in which a batch is accumulated.
    """
    chosen = {index: rule(size) for index, size in enumerate(survey.sizes) if size is not None}
    usable, sizes = list(chosen), sorted(set(chosen.values()))
    numbers = [sizes.index(chosen[index]) for index in usable]
    order = BucketShuffle(numbers, batch_size, seed)
    return Pictures(
        items,
        lambda position: usable[order(position)],
        chosen.get,
        seed=seed,
        wording=wording or Wording(),
        min_side=min_side,
    )


def as_tensor(picture: Image.Image, size: Size) -> Tensor:
    """The middle of a picture in the shape of `size` (width, height), resized.  RGB -> 3 H W in [-1, 1]."""
    fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1  # pyright: ignore[reportUnknownMemberType]
