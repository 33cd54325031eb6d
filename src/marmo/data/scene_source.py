"""Scenes as a training's pictures: drawn when they are asked for, a few together, and never the same one twice."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock

import torch

from marmo.data.atlas import Sprites
from marmo.data.contrast import wrong_caption
from marmo.data.scenes import batch
from marmo.data.selection import EVERYTHING, Selection
from marmo.data.source import Contrasted
from marmo.data.splits import Split

CHUNK = 64
"""Pictures that are drawn together; together they cost less."""


def scene_source(
    seed: int,
    size: int,
    split: Split = "train",
    device: torch.device | str = "cpu",
    sprites: Sprites | None = None,
    selection: Selection = EVERYTHING,
) -> Callable[[int], Contrasted]:
    """Scene `position` of a seed: its picture of `size` pixels a side, its caption, and one wrong by one fact.

    Pictures lie on `device`, as `sprites` do, by default the atlas.  Threads may ask together; one of them draws, and
    the others wait for it.
    """
    lock = Lock()

    @lru_cache(maxsize=4)
    def draw(chunk: int) -> Sequence[Contrasted]:
        drawn = batch(seed, chunk * CHUNK, CHUNK, size, device, split, sprites, selection)
        pictures = drawn.pictures.float() / 127.5 - 1
        rows: list[Contrasted] = []
        for number, sample in enumerate(drawn.samples):
            wrong = wrong_caption(seed, chunk * CHUNK + number, sample, split, selection=selection)
            assert wrong is not None, "a concept is always told"
            rows.append((pictures[number], sample.caption.text, wrong.text))
        return rows

    def at(position: int) -> Contrasted:
        with lock:
            return draw(position // CHUNK)[position % CHUNK]

    return at
