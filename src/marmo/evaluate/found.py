"""What a judge says of a picture."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

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
