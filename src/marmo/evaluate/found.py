"""What a judge says of a picture, and what a perfect one would say of a scene whose truth is known."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from marmo.data.layout import reach
from marmo.data.scene import Scene, Thing

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the picture."""


@dataclass(frozen=True)
class Found:
    """One object that an oracle sees."""

    concept: str
    """An id of `marmo.data.corpus`, or a shape's."""
    confidence: float
    """0 to 1."""
    box: Box
    style: str | None
    """The most likely one; None for a shape."""
    colour: str | None
    """A key of `COLOURS`; None where the artist's own colours are most likely."""


Oracle = Callable[[Tensor], list[list[Found]]]
"""Pictures, uint8 B 3 H W -> what is seen in each, the surest first."""


def truth(scene: Scene) -> list[Found]:
    """What a perfect oracle sees in a picture of `scene`."""
    return [_found(thing) for thing in scene.things]


def _found(thing: Thing) -> Found:
    across, down = reach(thing)
    box = thing.x - across, thing.y - down, thing.x + across, thing.y + down
    return Found(thing.concept, 1.0, box, thing.style, thing.colour)
