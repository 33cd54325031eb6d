"""The scene graph: everything that a picture shows, and GenEval's record of it.

Positions are shares of the picture, x from the left and y from the top; a thing's place is the centre of its ink.
"""

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from marmo.data.corpus import Style, corpus
from marmo.data.shapes import SHAPES, Fill

Kind = Literal["single", "pair", "count"]
Relation = Literal["left", "above"]
"""Of the first thing to the second: a pair names its left or upper thing first."""

POSITIONS: dict[Relation, str] = {"left": "right of", "above": "below"}
"""GenEval's word for where the second thing is, seen from the first."""


@dataclass(frozen=True)
class Thing:
    """One drawn object."""

    concept: str
    style: Style | None
    """None for a shape."""
    colour: str | None
    """A key of `COLOURS`; None leaves the drawing as its artist coloured it."""
    fill: Fill | None
    """Of a shape."""
    x: float
    y: float
    side: float
    """Of the square sprite, of which the ink's longer side takes 96 %."""
    angle: float = 0.0
    """Clockwise, in radians."""
    mirrored: bool = False

    @property
    def is_shape(self) -> bool:
        return self.concept in SHAPES


@dataclass(frozen=True)
class Background:
    """One colour, a fade from top to bottom, or two parts that meet at the horizon."""

    kind: Literal["plain", "gradient", "ground"]
    name: str
    """A key of `backgrounds.PAINTS`, or of `backgrounds.GROUNDS` for two parts."""
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    horizon: float = 1.0


@dataclass(frozen=True)
class Scene:
    """What a picture shows.  All things of a `count` are alike; a `pair` is two things in a relation."""

    kind: Kind
    things: tuple[Thing, ...]
    background: Background
    relation: Relation | None = None


Included = TypedDict(
    "Included", {"class": str, "count": int, "color": NotRequired[str], "position": NotRequired[tuple[str, int]]}
)
Excluded = TypedDict("Excluded", {"class": str, "count": int})


class Record(TypedDict):
    """GenEval's description of a correct picture."""

    tag: str
    include: list[Included]
    exclude: NotRequired[list[Excluded]]
    style: NotRequired[str]
    """Ours, and not GenEval's: which artist's drawing it is."""


def record(scene: Scene) -> Record:
    """The truth about a scene in GenEval's words; `position` of an entry names the entry that it is seen from."""
    match scene.kind:
        case "count":
            result = _count_record(scene)
        case "pair":
            first, second = (_included(thing) for thing in scene.things)
            assert scene.relation is not None
            second["position"] = (POSITIONS[scene.relation], 0)
            result = Record(tag="position", include=[first, second])
        case "single":
            tag = "single_object" if scene.things[0].colour is None else "colors"
            result = Record(tag=tag, include=[_included(scene.things[0])])
    if (style := scene.things[0].style) is not None:
        result["style"] = style
    return result


def _count_record(scene: Scene) -> Record:
    entry = _included(scene.things[0], len(scene.things))
    more = Excluded({"class": entry["class"], "count": len(scene.things) + 1})
    return Record(tag="counting", include=[entry], exclude=[more])


def _included(thing: Thing, count: int = 1) -> Included:
    entry = Included({"class": corpus()[thing.concept].en[0], "count": count})
    if thing.colour is not None:
        entry["color"] = thing.colour
    return entry
