"""The pictures that look most like a training picture, beside it: numbers about copies are to be seen, too."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from marmo.evaluate.copying import Nearest
from marmo.evaluate.pictures import Picture

SHOWN = 12


@dataclass(frozen=True, eq=False)
class LookAlike:
    """A picture and the training picture that is nearest to it."""

    picture: Picture
    train: Picture
    distance: float
    """Between the two, in the features of a space."""
    ratio: float
    """Of it to the distance from the nearest picture that training never saw: near 0 for a copy, about 1 for others."""


def look_alikes(
    pictures: Iterable[Picture], train: Iterable[Picture], found: Nearest, count: int = SHOWN
) -> list[LookAlike]:
    """The `count` pictures with the smallest ratio, the smallest first.

    Args:
        pictures: those that `found` was measured on, in the same order; `train`: likewise.
    """
    rows = [int(row) for row in found.closest(count)]
    twins = [int(found.train_index[row]) for row in rows]
    shown, known = _picked(pictures, rows), _picked(train, twins)
    return [
        LookAlike(shown[row], known[twin], float(found.train_distance[row]), float(found.ratio[row]))
        for row, twin in zip(rows, twins, strict=True)
    ]


def as_image(picture: Picture) -> Image.Image:
    """For showing."""
    return Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())


def _picked(pictures: Iterable[Picture], rows: Iterable[int]) -> dict[int, Picture]:
    wanted = set(rows)
    return {row: picture for row, picture in enumerate(pictures) if row in wanted}
