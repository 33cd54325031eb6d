"""Every drawing as pixels: one array, rendered on first use (about 20 s) and kept in Marmo's cache folder.

A sprite is 160 x 160 RGBA, its ink centred; shapes come last, in black for `compose` to colour.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from marmo.data.corpus import STYLES, corpus, drawings
from marmo.data.drawing import rasterise
from marmo.data.scene import Thing
from marmo.data.shapes import FILLS, SHAPES, svg
from marmo.files.atomic import atomic_write
from marmo.weights.fingerprint import cache_folder

PIXELS = 160

Sprites = Callable[[Sequence[Thing]], Tensor]
"""Things -> their sprites, B 160 160 4, uint8, alpha not multiplied in."""


def atlas(device: torch.device) -> Sprites:
    """All sprites on `device` (280 MB there; on the CPU the cached file is mapped, not read)."""
    sprites = _array(device)
    numbers = _numbers()

    def look_up(things: Sequence[Thing]) -> Tensor:
        rows = torch.tensor([numbers[_key(thing)] for thing in things], device=device)
        return sprites[rows]

    return look_up


def drawn_now(device: torch.device) -> Sprites:
    """Renders what it is asked for and remembers it: quicker than the atlas for a few pictures."""

    def draw(things: Sequence[Thing]) -> Tensor:
        return torch.stack([_draw(*_key(thing)) for thing in things]).to(device)

    return draw


def _key(thing: Thing) -> tuple[str, str]:
    """(concept, style) of a drawing, (shape, fill) of a shape."""
    look = thing.style or thing.fill
    assert look is not None
    return thing.concept, look


@cache
def _numbers() -> dict[tuple[str, str], int]:
    """Where each sprite stands in the atlas."""
    drawn = [(concept.id, str(style)) for style in STYLES for concept in corpus().concepts]
    return {key: number for number, key in enumerate([*drawn, *((id, fill) for id in SHAPES for fill in FILLS)])}


@cache
def _draw(concept: str, look: str) -> Tensor:
    for fill in FILLS:
        if fill == look:
            return rasterise(svg(SHAPES[concept], fill), (0, 0, 100), PIXELS)
    style = STYLES[[str(style) for style in STYLES].index(look)]
    return rasterise(_drawings()[style][concept], corpus()[concept].looks[style].box, PIXELS)


_drawings = cache(drawings)


@cache
def _array(device: torch.device) -> Tensor:
    path = cache_folder() / f"scenes-{corpus().digest[:16]}-{PIXELS}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            np.save(stream, np.stack([_draw(*key).numpy() for key in _numbers()]))
    # "c" is copy-on-write: torch warns of memory that may not be written to
    return torch.from_numpy(np.load(path, mmap_mode="c")).to(device)
