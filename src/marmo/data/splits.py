"""What training never sees: six kinds of held-out scenes, fixed by hash before any training.

    style       a tenth of all (concept, style) pairs
    colour      two colours each for 30 concepts that are recoloured otherwise
    relation    one in twenty ordered pairs (left or upper concept, the other one)
    count       five of a kind, for 50 concepts
    language    for one in twenty recoloured concepts no Chinese caption names a colour
    concept     20 concepts, all concepts whose names contain theirs, and every synonym that does

Shapes take part in relations and counts.

The split "all" keeps none of these rules.  It is for networks that judge pictures: these must know what no generator
may learn.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from marmo.data.colours import COLOURS
from marmo.data.corpus import STYLES, Concept, corpus, shape_concepts
from marmo.data.dice import share
from marmo.data.scene import Scene

Rule = Literal["style", "colour", "relation", "count", "language", "concept"]
Split = Literal[
    "train",
    "all",
    "heldout_style",
    "heldout_colour",
    "heldout_relation",
    "heldout_count",
    "heldout_language",
    "heldout_concept",
]

NUM_REMOVED = 20
NUM_COLOUR_CONCEPTS = 30
NUM_COUNT_CONCEPTS = 50
HELDOUT_COUNT = 5
MAX_NEAR = 1
"""A removed concept takes at most so many others along."""


@dataclass(frozen=True)
class HeldOut:
    """The rules, as sets."""

    styles: frozenset[tuple[str, str]]
    colours: frozenset[tuple[str, str]]
    counts: frozenset[str]
    language: frozenset[str]
    removed: frozenset[str]
    """The 20."""
    near: frozenset[str]
    """Those that go with them."""
    english: re.Pattern[str]
    """Finds a name of a removed concept in lower-case text."""
    chinese: re.Pattern[str]

    def mentions_removed(self, text: str) -> bool:
        return bool(self.english.search(text.lower()) or self.chinese.search(text))


def broken_rules(scene: Scene) -> set[Rule]:
    """Which rules a scene breaks; training scenes break none.  `language` is the caption's matter, not the scene's."""
    held, broken = held_out(), set[Rule]()
    for thing in scene.things:
        if (thing.concept, thing.style) in held.styles:
            broken.add("style")
        if (thing.concept, thing.colour) in held.colours:
            broken.add("colour")
        if thing.concept in held.removed or thing.concept in held.near:
            broken.add("concept")
    if scene.kind == "pair" and is_heldout_pair(scene.things[0].concept, scene.things[1].concept):
        broken.add("relation")
    if scene.kind == "count" and len(scene.things) == HELDOUT_COUNT and scene.things[0].concept in held.counts:
        broken.add("count")
    return broken


def needs_english(scene: Scene) -> bool:
    """Whether a training caption of this scene that names colours may only be English."""
    return any(thing.colour is not None and thing.concept in held_out().language for thing in scene.things)


def is_heldout_pair(first: str, second: str) -> bool:
    """Whether the left or upper concept `first` and its partner are kept from training."""
    return share(f"{corpus().version}/relation/{first}/{second}") < 0.05


@cache
def held_out() -> HeldOut:
    """The rules of this corpus."""
    concepts = corpus().concepts
    removed, near = _removed(concepts)
    kept = [concept for concept in concepts if concept.id not in removed | near]
    coloured = [c for c in _by_hash("colour", kept) if all(look.colour for look in c.looks.values())]
    countable = [c.id for c in _by_hash("count", [*kept, *shape_concepts()]) if c.is_countable]
    words = [corpus()[id] for id in sorted(removed)]
    return HeldOut(
        styles=frozenset((c.id, style) for c in kept for style in STYLES if _share("style", c.id, style) < 0.1),
        colours=frozenset((c.id, colour) for c in coloured[:NUM_COLOUR_CONCEPTS] for colour in _two_colours(c)),
        counts=frozenset(countable[:NUM_COUNT_CONCEPTS]),
        language=frozenset(c.id for c in coloured[NUM_COLOUR_CONCEPTS:] if _share("language", c.id) < 0.05),
        removed=removed,
        near=near,
        english=_english([name for concept in words for name in concept.en]),
        chinese=_chinese([name for concept in words for name in concept.zh]),
    )


def _removed(concepts: Iterable[Concept]) -> tuple[frozenset[str], frozenset[str]]:
    """The first concepts by hash whose names few others contain."""
    removed, near = set[str](), set[str]()
    for concept in _by_hash("concept", concepts):
        if concept.group.startswith("person") or min(len(name) for name in concept.zh) < 2:
            continue
        english, chinese = _english(concept.en), _chinese(concept.zh)
        others = {c.id for c in concepts if c is not concept and _is_named(c, english, chinese)}
        is_shape = any(_is_named(shape, english, chinese) for shape in shape_concepts())
        if len(others) <= MAX_NEAR and concept.id not in near and not others & removed and not is_shape:
            removed.add(concept.id)
            near |= others
        if len(removed) == NUM_REMOVED:
            break
    return frozenset(removed), frozenset(near)


def _is_named(concept: Concept, english: re.Pattern[str], chinese: re.Pattern[str]) -> bool:
    return bool(english.search(concept.en[0].lower()) or chinese.search(concept.zh[0]))


def _english(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b{re.escape(name.lower())}(?:s|es)?\b" for name in names))


def _chinese(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name) for name in names))


def _two_colours(concept: Concept) -> list[str]:
    return sorted(COLOURS, key=lambda colour: _share("colours", concept.id, colour))[:2]


def _by_hash(rule: str, concepts: Iterable[Concept]) -> list[Concept]:
    return sorted(concepts, key=lambda concept: _share(rule, concept.id))


def _share(*key: str) -> float:
    return share("/".join((corpus().version, *key)))
