"""Where things stand: inside the picture, apart from one another, in a relation that nobody can mistake.

Sizes are shares of the picture.  A thing's reach is half the width and height of its ink, turned as it will be drawn.
"""

from dataclasses import replace
from math import cos, sin

from marmo.data.corpus import corpus
from marmo.data.dice import Dice
from marmo.data.scene import Relation, Thing

MARGIN = 0.025
"""Free on every side of the picture."""

GRIDS: dict[int, list[list[tuple[float, float]]]] = {
    1: [[(0.5, 0.5)]],
    2: [[(0.27, 0.5), (0.73, 0.5)], [(0.27, 0.27), (0.73, 0.73)], [(0.73, 0.27), (0.27, 0.73)]],
    3: [[(0.5, 0.27), (0.27, 0.73), (0.73, 0.73)], [(0.27, 0.27), (0.73, 0.27), (0.5, 0.73)]],
    4: [[(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]],
    5: [
        [(0.19, 0.3), (0.5, 0.3), (0.81, 0.3), (0.33, 0.7), (0.67, 0.7)],
        [(0.33, 0.3), (0.67, 0.3), (0.19, 0.7), (0.5, 0.7), (0.81, 0.7)],
        [(0.2, 0.2), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.8, 0.8)],
    ],
    6: [
        [(x, y) for y in (0.3, 0.7) for x in (0.19, 0.5, 0.81)],
        [(x, y) for y in (0.19, 0.5, 0.81) for x in (0.3, 0.7)],
    ],
}
"""Centres for so many things; jitter comes on top."""

CELLS: dict[int, float] = {1: 0.9, 2: 0.46, 3: 0.44, 4: 0.44, 5: 0.29, 6: 0.29}
"""The side of the square that one of so many things may fill."""


def alone(thing: Thing, dice: Dice) -> Thing:
    """55 to 95 % of the frame, near the middle."""
    thing = replace(thing, angle=_tilt(dice, 0.2))
    return _placed(_sized(thing, dice.uniform(0.55, 0.95)), 0.5, 0.5, dice, 0.25)


def two(first: Thing, second: Thing, relation: Relation, dice: Dice) -> tuple[Thing, Thing]:
    """35 to 46 % of the frame each; `first` is left of or above `second`, with a gap between them."""
    placed: list[Thing] = []
    for thing, middle in ((first, 0.265), (second, 0.735)):
        sized = _sized(replace(thing, angle=_tilt(dice, 0.15)), dice.uniform(0.35, 0.46))
        x, y = (middle, dice.near(0.5, 0.1)) if relation == "left" else (dice.near(0.5, 0.1), middle)
        placed.append(_placed(sized, x, y, dice, 0.01))
    return placed[0], placed[1]


def several(thing: Thing, count: int, dice: Dice) -> tuple[Thing, ...]:
    """So many of the same thing on a jittered grid."""
    cell = CELLS[count]
    size = cell * dice.uniform(0.72, 0.95) if count > 1 else dice.uniform(0.4, 0.7)
    return tuple(
        _placed(_sized(replace(thing, angle=_tilt(dice, 0.12)), size), x, y, dice, (cell - size) / 2)
        for x, y in dice.choice(GRIDS[count])
    )


def reach(thing: Thing) -> tuple[float, float]:
    """Half the width and height of the box around a thing's ink."""
    width, height = _ink(thing)
    across, along = abs(cos(thing.angle)), abs(sin(thing.angle))
    return thing.side / 2 * (width * across + height * along), thing.side / 2 * (width * along + height * across)


def _ink(thing: Thing) -> tuple[float, float]:
    return (0.96, 0.96) if thing.style is None else corpus()[thing.concept].looks[thing.style].size


def _sized(thing: Thing, size: float) -> Thing:
    """The longer side of the box around its ink is `size`."""
    return replace(thing, side=thing.side * size / (2 * max(reach(thing))))


def _placed(thing: Thing, x: float, y: float, dice: Dice, jitter: float) -> Thing:
    """About (x, y), wholly inside the picture."""
    across, down = reach(thing)
    return replace(
        thing,
        x=min(max(dice.near(x, jitter), across + MARGIN), 1 - across - MARGIN),
        y=min(max(dice.near(y, jitter), down + MARGIN), 1 - down - MARGIN),
    )


def _tilt(dice: Dice, most: float) -> float:
    """Upright half of the time."""
    return dice.near(0, most) if dice.chance(0.5) else 0.0
