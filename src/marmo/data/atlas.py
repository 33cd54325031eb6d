"""Every drawing as pixels: one array, rendered on first use (under a minute) and kept in Marmo's cache folder.

A sprite is 160 x 160 RGBA, its ink centred; shapes come last, in black for `compose` to colour.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from marmo.data.corpus import STYLES, Style, corpus, drawings
from marmo.data.drawing import Box, rasterise
from marmo.data.scene import Thing
from marmo.data.shapes import FILLS, SHAPES, Fill, svg
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


def _key(thing: Thing) -> tuple[str, Style | Fill]:
    """(concept, style) of a drawing, (shape, fill) of a shape."""
    look = thing.style or thing.fill
    assert look is not None
    return thing.concept, look


@cache
def _numbers() -> dict[tuple[str, Style | Fill], int]:
    """Where each sprite stands in the atlas."""
    drawn: list[tuple[str, Style | Fill]] = [(c.id, style) for style in STYLES for c in corpus().concepts]
    shapes: list[tuple[str, Style | Fill]] = [(id, fill) for id in SHAPES for fill in FILLS]
    return {key: number for number, key in enumerate([*drawn, *shapes])}


@cache
def _draw(concept: str, look: Style | Fill) -> Tensor:
    return rasterise(*_source(concept, look), PIXELS)


def _source(concept: str, look: Style | Fill) -> tuple[str, Box]:
    """The SVG body and the part of its plane that a sprite shows."""
    match look:
        case "solid" | "outline" | "striped":
            return svg(SHAPES[concept], look), (0, 0, 100)
        case _:
            return _drawings()[look][concept], corpus()[concept].looks[look].box


_drawings = cache(drawings)


@cache
def _array(device: torch.device) -> Tensor:
    path = cache_folder() / f"scenes-{corpus().digest[:16]}-{PIXELS}.rgba"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            for key in _numbers():
                stream.write(rasterise(*_source(*key), PIXELS).numpy().tobytes())
    pixels = torch.from_file(str(path), shared=False, size=len(_numbers()) * PIXELS**2 * 4, dtype=torch.uint8)
    return pixels.view(-1, PIXELS, PIXELS, 4).to(device)
