"""A collection of pictures of which some are kept apart, to see what was learnt and what only remembered.

    split = open_split(Path("pictures"), heldout=0.1, seed=0, size=32, channels=3, compared=1024)
    split.source(0)                    # trained on
    split.seen, split.heldout          # pictures to compare: of training, and kept apart

Which pictures are kept apart depends on nothing but how many there are, so all runs are tried on the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from marmo.data.item import Item, Items
from marmo.data.order import Shuffle
from marmo.data.source import Source, shuffled
from marmo.data.tags import Wording

MIN_SIDE = 32
"""Pixels; smaller pictures are passed over where larger ones are asked for."""
MEMORY = 1 << 30
"""Bytes of decoded pictures that are kept."""


@dataclass(frozen=True)
class Split:
    """What is learnt from, and what learning is measured with."""

    source: Source
    count: int
    """Pictures to learn from."""
    seen: Tensor
    """Of these.  N C H W in [-1, 1]"""
    heldout: Tensor
    """Kept apart.  M C H W in [-1, 1]"""


def open_split(path: Path, heldout: float | Path, *, seed: int, size: int, channels: int, compared: int) -> Split:
    """The pictures at a path, in squares of `size` pixels.

    Args:
        heldout: the share that is kept apart, or where other pictures lie that are.
        seed: of the order in which they are seen.
        channels: 3, or 1 for grey ones.
        compared: no more pictures than this are held to compare with, of either sort.

    Raises `ValueError` where nothing would be left to learn from or to compare with.
    """
    from marmo.data.pictures import open_items  # reads picture records, too, and so needs pydantic

    items = open_items(path)
    apart = frozenset[int]() if isinstance(heldout, Path) else _apart(len(items), heldout)
    kept = [index for index in range(len(items)) if index not in apart]
    if not kept:
        raise ValueError(f"{path} has {len(items)} pictures, and all would be kept apart; give a smaller share")
    source = _pictures(items, kept, seed, size, channels)
    others = open_items(heldout) if isinstance(heldout, Path) else items
    names = list(range(len(others))) if isinstance(heldout, Path) else sorted(apart)
    unseen = _pictures(others, names, 0, size, channels)
    return Split(source, len(kept), _first(source, len(kept), compared), _first(unseen, len(names), compared))


def split_of(train: Sequence[Tensor] | Tensor, heldout: Tensor, seed: int) -> Split:
    """The same of pictures that are at hand.  C H W each, in [-1, 1]"""
    rows = torch.stack(list(train))
    return Split(shuffled([(row, "") for row in rows], seed), len(rows), rows, heldout)


def _apart(count: int, share: float) -> frozenset[int]:
    """At least one, at the first places of an order that never changes."""
    if not 0 < share < 1:
        raise ValueError(f"the share of pictures that are kept apart is above 0 and below 1, not {share:g}")
    order = Shuffle(count, 0)
    return frozenset(order(place) for place in range(max(round(share * count), 1)))


def _pictures(items: Items, names: Sequence[int], seed: int, size: int, channels: int) -> Source:
    """Those with these numbers, each pass in another order; decoded once, as far as they fit into memory."""
    from marmo.data.pictures import Pictures

    chosen, order = frozenset(names), Shuffle(len(names), seed)
    pictures = Pictures(
        _Wordless(items),
        names.__getitem__,
        lambda index: (size, size) if index in chosen else None,
        seed=seed,
        wording=Wording(),
        min_side=min(size, MIN_SIDE),
    )

    @lru_cache(maxsize=MEMORY // (4 * channels * size * size))
    def picture(place: int) -> Tensor:
        found, _ = pictures(place)
        return found if channels == 3 else found.mean(0, keepdim=True)

    return lambda position: (picture(order(position)), "")


def _first(source: Source, count: int, most: int) -> Tensor:
    """Every picture once, or the first of them."""
    return torch.stack([source(position)[0] for position in range(min(count, most))])


@dataclass(frozen=True)
class _Wordless:
    """A collection whose captions are of no account, so that a picture without one is no defect."""

    items: Items

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        return self.items.name(index)

    def item(self, index: int) -> Item:
        return replace(self.items.item(index), caption=b"")
