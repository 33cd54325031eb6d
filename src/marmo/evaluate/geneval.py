"""Is a picture what its prompt asked for?  GenEval's rules, on what an oracle found in it.

    judge(record, found).is_right

Ghosh et al., "GenEval: an object-focused framework for evaluating text-to-image alignment" (2023), as its published
evaluation decides:

    objects    at least `count` of a class, each more confident than a threshold, which is higher where they are counted
    exclude    fewer than `count` of a class
    colour     all of the `count` most confident objects of the class have it
    position   every such object lies in a direction from every object that it is seen from, see `directions`

A clause that fails is not asked for more, and a clause whose target failed fails.  Three things differ: classes are the
first English names of the corpus's concepts, colours are the oracle's own answers (also grey, and "as drawn"), and a
record may ask for a style.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import hypot
from typing import Literal

from marmo.data.corpus import corpus, shape_concepts
from marmo.data.scene import Included, Record
from marmo.evaluate.found import Found

Check = Literal["objects", "count", "colour", "position", "style"]
CHECKS: tuple[Check, ...] = ("objects", "count", "colour", "position", "style")

AXIS = 0.5
"""A direction holds where its share of the offset is larger: sectors of 120 degrees, so that two may hold."""
NOWHERE = 2e-6
"""Of the picture's height: no direction at all.  GenEval says a thousandth of a pixel, here of 512."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """GenEval's settings, with its defaults."""

    threshold: float = 0.3
    """Confidence above which an object is there."""
    counting_threshold: float = 0.9
    """The same where the tag is `counting`."""
    max_objects: int = 16
    """Of a class, the most confident."""
    position_threshold: float = 0.1
    """So many times the sizes of two objects, their centres may be apart and still be at the same place."""


GENEVAL = Rules()


@dataclass(frozen=True)
class Reason:
    """What is wrong with a picture."""

    check: Check
    """The first rule that a clause broke."""
    text: str
    """"expected 3 red fox, found 2"."""


@dataclass(frozen=True)
class Verdict:
    """Right, or wrong for these reasons."""

    reasons: tuple[Reason, ...] = ()

    @property
    def is_right(self) -> bool:
        return not self.reasons


def judge(record: Record, found: Sequence[Found], rules: Rules = GENEVAL, aspect: float = 1.0) -> Verdict:
    """Whether a picture in which an oracle found this is correct.

    Args:
        aspect: the picture's width over its height; without it directions would be those of a square.

    Raises:
        ValueError: for a record that names no concept of the corpus.
    """
    seen, targets, reasons = _confident(found, record, rules), list[list[Found]](), list[Reason]()
    for wanted in record["include"]:
        things = seen[concept_named(wanted["class"])][: wanted["count"]]
        reason = (
            _too_few(wanted, things, record["tag"])
            or _other_colour(wanted, things)
            or _elsewhere(wanted, things, targets, rules, aspect)
            or _other_style(wanted, things, record.get("style"))
        )
        targets.append([] if reason else things)
        reasons += [reason] if reason else []
    for unwanted in record.get("exclude", []):
        number = len(seen[concept_named(unwanted["class"])])
        if number >= unwanted["count"]:
            reasons.append(
                Reason("count", f"expected fewer than {unwanted['count']} {unwanted['class']}, found {number}")
            )
    return Verdict(tuple(reasons))


def directions(one: Found, other: Found, threshold: float, aspect: float = 1.0) -> set[str]:
    """Where `one` lies, seen from `other`: none, one or two of left of, right of, above, below.

    Centres count.  From their offset, `threshold` times the sizes of both is taken away along each axis; what is left,
    over the length of the whole offset, must exceed one half.
    """
    (x, y, width, height), (other_x, other_y, other_width, other_height) = _place(one, aspect), _place(other, aspect)
    offset = x - other_x, y - other_y
    across = _shrunk(offset[0], threshold * (width + other_width))
    down = _shrunk(offset[1], threshold * (height + other_height))
    if max(abs(across), abs(down)) < NOWHERE:
        return set()
    dx, dy = across / hypot(*offset), down / hypot(*offset)
    holds = {"left of": dx < -AXIS, "right of": dx > AXIS, "above": dy < -AXIS, "below": dy > AXIS}
    return {direction for direction, is_so in holds.items() if is_so}


def concept_named(name: str) -> str:
    """The concept, or the shape, that a record's class means."""
    id = _ids().get(name)
    if id is None:
        raise ValueError(f"a record asks for {name!r}, which is the name of no concept in the corpus")
    return id


@cache
def _ids() -> dict[str, str]:
    concepts = [*corpus().concepts, *shape_concepts()]
    ids = {concept.en[0]: concept.id for concept in concepts}
    assert len(ids) == len(concepts), "two concepts have the same first name"
    return ids


def _confident(found: Sequence[Found], record: Record, rules: Rules) -> defaultdict[str, list[Found]]:
    """By concept, the most confident first."""
    threshold = rules.counting_threshold if record["tag"] == "counting" else rules.threshold
    seen = defaultdict[str, list[Found]](list)
    for thing in sorted(found, key=lambda thing: -thing.confidence):
        if thing.confidence > threshold and len(seen[thing.concept]) < rules.max_objects:
            seen[thing.concept].append(thing)
    return seen


def _too_few(wanted: Included, things: Sequence[Found], tag: str) -> Reason | None:
    if len(things) >= wanted["count"]:
        return None
    return Reason(
        "count" if things and tag == "counting" else "objects",
        f"expected {_told(wanted)}, found {len(things) or 'none'}",
    )


def _other_colour(wanted: Included, things: Sequence[Found]) -> Reason | None:
    colour = wanted.get("color")
    if colour is None or all(thing.colour == colour for thing in things):
        return None
    seen = [thing.colour or "as drawn" for thing in things]
    counted = ", ".join(f"{seen.count(name)} {name}" for name in sorted(set(seen)))
    return Reason("colour", f"expected {_told(wanted)}, found {counted if len(seen) > 1 else seen[0]}")


def _elsewhere(
    wanted: Included, things: Sequence[Found], targets: Sequence[Sequence[Found]], rules: Rules, aspect: float
) -> Reason | None:
    if "position" not in wanted:
        return None
    direction, number = wanted["position"]
    expected = f"expected {wanted['class']} {direction} its target"
    if not targets[number]:
        return Reason("position", f"{expected}, found no target")
    for thing in things:
        for target in targets[number]:
            seen = directions(thing, target, rules.position_threshold, aspect)
            if direction not in seen:
                return Reason("position", f"{expected}, found it {' and '.join(sorted(seen)) or 'at the same place'}")
    return None


def _other_style(wanted: Included, things: Sequence[Found], style: str | None) -> Reason | None:
    other = next((thing.style for thing in things if thing.style != style), style)
    if style is None or other == style:
        return None
    return Reason("style", f"expected {wanted['class']} in {style} style, found {other or 'a shape'}")


def _told(wanted: Included) -> str:
    return " ".join([str(wanted["count"]), *([wanted["color"]] if "color" in wanted else []), wanted["class"]])


def _place(thing: Found, aspect: float) -> tuple[float, float, float, float]:
    """Centre, width and height, in heights of the picture."""
    left, top, right, bottom = thing.box
    return (left + right) / 2 * aspect, (top + bottom) / 2, abs(right - left) * aspect, abs(bottom - top)


def _shrunk(offset: float, by: float) -> float:
    """Towards zero, and not beyond."""
    size = max(abs(offset) - by, 0.0)
    return size if offset > 0 else -size
