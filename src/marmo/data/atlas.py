"""Every drawing as pixels, in four sizes, rendered on first use (under a minute) and kept in Marmo's cache folder.

A sprite is 160 x 160 RGBA, its ink centred, alpha multiplied in, and the same averaged down to a half, a quarter and an
eighth; shapes come last, in black for `compose` to colour.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.data.corpus import STYLES, Style, corpus, drawings
from marmo.data.drawing import Box, rasterise
from marmo.data.scene import Thing
from marmo.data.shapes import FILLS, SHAPES, Fill, svg
from marmo.files.atomic import atomic_write
from marmo.weights.fingerprint import cache_folder

PIXELS = 160

LEVELS = 4
"""160, 80, 40 and 20 pixels."""

Sprites = Callable[[Sequence[Thing], int], Tensor]
"""Things, and how often to halve -> their sprites, B 4 s s, uint8, alpha multiplied in."""


def atlas(device: torch.device) -> Sprites:
    """All sprites on `device` (350 MB there; on the CPU the cached files are mapped, not read)."""
    levels = _arrays(device)
    numbers = _numbers()

    def look_up(things: Sequence[Thing], level: int) -> Tensor:
        rows = torch.tensor([numbers[_key(thing)] for thing in things], device=device)
        return levels[level][rows]

    return look_up


def drawn_now(device: torch.device) -> Sprites:
    """Renders what it is asked for and remembers it: quicker than the atlas for a few pictures."""

    def draw(things: Sequence[Thing], level: int) -> Tensor:
        return torch.stack([_draw(*_key(thing))[level] for thing in things]).to(device)

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
def _draw(concept: str, look: Style | Fill) -> Sequence[Tensor]:
    """One sprite at every level, 4 s s each."""
    pixels = rasterise(*_source(concept, look), PIXELS).permute(2, 0, 1).float()
    alpha = pixels[3:]
    largest = torch.cat([pixels[:3] * alpha / 255, alpha])
    return [F.avg_pool2d(largest, 2**level).round().to(torch.uint8) for level in range(LEVELS)]


def _source(concept: str, look: Style | Fill) -> tuple[str, Box]:
    """The SVG body and the part of its plane that a sprite shows."""
    match look:
        case "solid" | "outline" | "striped":
            return svg(SHAPES[concept], look), (0, 0, 100)
        case _:
            return _drawings()[look][concept], corpus()[concept].looks[look].box


_drawings = cache(drawings)


@cache
def _arrays(device: torch.device) -> Sequence[Tensor]:
    """One array per level, N 4 s s."""
    sides = [PIXELS >> level for level in range(LEVELS)]
    paths = [cache_folder() / f"scenes-{corpus().digest[:16]}-{side}.sprites" for side in sides]
    if not all(path.exists() for path in paths):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            streams = [stack.enter_context(atomic_write(path)) for path in paths]
            for key in _numbers():
                for stream, sprite in zip(streams, _draw.__wrapped__(*key), strict=True):
                    stream.write(sprite.numpy().tobytes())
    return [_mapped(path, side).to(device) for path, side in zip(paths, sides, strict=True)]


def _mapped(path: Path, side: int) -> Tensor:
    count = len(_numbers())
    flat = torch.from_file(str(path), shared=False, size=count * 4 * side**2, dtype=torch.uint8)
    return flat.view(count, 4, side, side)
