"""Pictures with exactly known truth, without end: a sample is a function of (corpus version, seed, index).

    scene(0, 7)                          what picture 7 of seed 0 shows
    render(scene(0, 7), 128)             its pixels
    batch(0, start=0, count=64)          64 pictures with captions and GenEval records

`split="train"` never draws what is held out (see `splits`); `split="heldout_style"` and its like draw nothing else.
`split="all"` draws everything, for networks that judge pictures; a generator never learns from it.
A `Selection` draws from fewer concepts or fewer kinds of scenes; without one a scene is what it always was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from marmo.data import backgrounds, layout
from marmo.data.atlas import Sprites, atlas, drawn_now
from marmo.data.captions import Caption, caption
from marmo.data.colours import COLOURS, Lab, targets, triple
from marmo.data.compose import compose
from marmo.data.corpus import STYLES, Concept, Style, corpus, shape_concepts
from marmo.data.dice import Dice, StillDice
from marmo.data.scene import Kind, Record, Relation, Scene, Thing, record
from marmo.data.selection import EVERYTHING, PLURAL, Group, Selection
from marmo.data.shapes import FILLS
from marmo.data.splits import HELDOUT_COUNT, Rule, Split, broken_rules, held_out, needs_english

KINDS: dict[Group, float] = {"single": 0.45, "pair": 0.25, "count": 0.15, "shape": 0.15}
"""Of which pairs and counts are `PLURAL`."""
SHAPE_KINDS: dict[Kind, float] = {"single": 0.5, "pair": 0.3, "count": 0.2}
CALM_STYLES: tuple[Style, ...] = ("twemoji", "noto", "fluent")
"""The flattest drawings first."""

PROPOSALS = 5_000
"""Where so many fail, none is right: of 100 concepts one pair in 20 is held out, one drawing in 10."""

HELDOUT_KINDS: dict[Split, Kind] = {"heldout_relation": "pair", "heldout_count": "count"}


class NothingToDraw(ValueError):
    """A split holds nothing of a selection."""


@dataclass(frozen=True)
class Sample:
    """What is known of one picture."""

    scene: Scene
    caption: Caption
    record: Record


@dataclass(frozen=True)
class Batch:
    """Pictures and what is known of them."""

    pictures: Tensor
    """B 3 H W, uint8."""
    samples: Sequence[Sample]


def scene(seed: int, index: int, split: Split = "train", selection: Selection = EVERYTHING) -> Scene:
    """What picture `index` of `seed` shows.

    The removed concepts of `heldout_concept` are the same for every selection, for no selection holds them.  Raises
    `NothingToDraw` where a split holds nothing of a selection.
    """
    dice = _dice(seed, index, split)
    kind, from_shapes = _kind(dice, split, selection)
    for _ in range(PROPOSALS):
        proposed = _propose(dice, kind, from_shapes, split, selection)
        if _belongs(proposed, split):
            return proposed
    raise NothingToDraw(f"nothing of the {split} split is in the selection of concepts; choose more")


def sample(seed: int, index: int, split: Split = "train", selection: Selection = EVERYTHING) -> Sample:
    """The scene, a caption in one of the forms, and the truth."""
    shown = scene(seed, index, split, selection)
    if split == "train":
        assert not broken_rules(shown), f"training scene {seed}/{index} is held out"
    return Sample(shown, caption(shown, caption_dice(seed, index, split), split), record(shown))


def caption_dice(seed: int, index: int, split: Split = "train") -> Dice:
    """What decides how a sample is told; the same dice tell another scene in the same manner."""
    return Dice(f"{corpus().version}/caption/{split}/{seed}/{index}")


def render(scene: Scene, size: int, device: torch.device | str = "cpu") -> Tensor:
    """One picture; draws only the sprites that it needs.  3 size size, uint8, on `device`"""
    return compose([scene], size, drawn_now(torch.device(device)))[0]


def batch(
    seed: int,
    start: int,
    count: int,
    size: int = 128,
    device: torch.device | str = "cpu",
    split: Split = "train",
    sprites: Sprites | None = None,
    selection: Selection = EVERYTHING,
) -> Batch:
    """Samples start ... start + count - 1, drawn together; `sprites` are by default the atlas on `device`."""
    samples = [sample(seed, index, split, selection) for index in range(start, start + count)]
    chosen = atlas(torch.device(device)) if sprites is None else sprites
    return Batch(compose([sample.scene for sample in samples], size, chosen), samples)


def _dice(seed: int, index: int, split: Split) -> Dice:
    return Dice(f"{corpus().version}/{split}/{seed}/{index}")


def _belongs(proposed: Scene, split: Split) -> bool:
    match split:
        case "all":
            return True
        case "train":
            return not broken_rules(proposed)
        case "heldout_language":
            return not broken_rules(proposed) and needs_english(proposed)
        case _:
            return broken_rules(proposed) == {_rule(split)}


def _rule(split: Split) -> Rule:
    match split:
        case "heldout_style":
            return "style"
        case "heldout_colour":
            return "colour"
        case "heldout_relation":
            return "relation"
        case "heldout_count":
            return "count"
        case "heldout_concept":
            return "concept"
        case _:
            raise AssertionError(split)


def _kind(dice: Dice, split: Split, selection: Selection) -> tuple[Kind, bool]:
    """The kind, and whether shapes take part; held-out things stand alone, where nothing else can go wrong."""
    if split in HELDOUT_KINDS:
        return HELDOUT_KINDS[split], False
    if split not in ("train", "all"):
        return "single", False
    plural, simple = selection.plural / PLURAL, (1 - selection.plural) / (1 - PLURAL)
    shares = {group: share * (plural if group in ("pair", "count") else simple) for group, share in KINDS.items()}
    kind = dice.weighted({group: share for group, share in shares.items() if group in selection.kinds})
    match kind:
        case "shape":
            return dice.weighted(SHAPE_KINDS), True
        case "pair":
            return "pair", False
        case "count":
            return "count", False
        case _:
            return "single", False


def _propose(dice: Dice, kind: Kind, from_shapes: bool, split: Split, selection: Selection) -> Scene:
    is_calm = selection.calm > 0 and dice.chance(selection.calm)  # no roll where none is calm: the same scenes
    style = None if from_shapes else CALM_STYLES[0] if is_calm else dice.choice(STYLES)
    concepts = pool(kind, from_shapes, split, selection)
    relation: Relation | None = None
    looked, where = (_calm, StillDice()) if is_calm else (list[Thing], dice)
    match kind:
        case "single":
            (thing,) = looked([_thing(dice, concepts, style, split, selection.coloured)])
            things = (layout.alone(thing, where),)
        case "pair":
            first, second = looked(_two(dice, concepts, style, split, selection.coloured))
            relation = "left" if dice.chance(0.5) else "above"
            things = layout.two(first, second, relation, where)
        case "count":
            number = HELDOUT_COUNT if split == "heldout_count" else 1 + int(dice.uniform(0, 6))
            (thing,) = looked([_thing(dice, concepts, style, split, selection.coloured)])
            things = layout.several(thing, number, where)
    background = backgrounds.pick(dice, tuple(_tone(thing) for thing in things))
    return Scene(kind, things, background, relation)


def _calm(things: Sequence[Thing]) -> list[Thing]:
    """Not mirrored, and drawn in the first style that the splits leave to all of them."""
    held = held_out().styles
    left: list[Style] = [style for style in CALM_STYLES if not any((thing.concept, style) in held for thing in things)]
    return [_plain(thing, left[0] if left else CALM_STYLES[0]) for thing in things]


def _plain(thing: Thing, style: Style) -> Thing:
    """A shape has no style, and a drawing in which no colour can be replaced keeps its own."""
    if thing.is_shape:
        return replace(thing, mirrored=False)
    can_be_coloured = corpus()[thing.concept].looks[style].colour is not None
    return replace(thing, style=style, colour=thing.colour if can_be_coloured else None, mirrored=False)


def _two(
    dice: Dice, pool: Sequence[Concept], style: Style | None, split: Split, coloured: float
) -> tuple[Thing, Thing]:
    """Two things that a caption can tell apart."""
    first = second = _thing(dice, pool, style, split, coloured)
    while first.concept == second.concept:
        second = _thing(dice, pool, style, split, coloured)
    return first, second


def _thing(dice: Dice, pool: Sequence[Concept], style: Style | None, split: Split, coloured: float) -> Thing:
    concept = dice.choice(pool)
    mirrored = concept.is_mirrored and dice.chance(0.5)
    if style is None:
        colour, fill = dice.choice(list(COLOURS)), dice.choice(FILLS)
        return Thing(concept.id, None, colour, fill, 0.5, 0.5, 0.5, mirrored=mirrored)
    colour = None
    if concept.looks[style].colour is not None and (dice.chance(coloured) or split == "heldout_language"):
        colour = dice.choice(_colours(concept.id, split))
    return Thing(concept.id, style, colour, None, 0.5, 0.5, 0.5, mirrored=mirrored)


def _colours(concept: str, split: Split) -> Sequence[str]:
    if split == "heldout_colour":
        return [colour for colour in COLOURS if (concept, colour) in held_out().colours]
    return list(COLOURS)


@cache
def pool(
    kind: Kind, from_shapes: bool, split: Split = "train", selection: Selection = EVERYTHING
) -> tuple[Concept, ...]:
    """The concepts that can stand in such a scene; `NothingToDraw` where there are too few for one."""
    concepts, held = (shape_concepts() if from_shapes else corpus().concepts), held_out()
    match split:
        case "all":
            pass
        case "heldout_colour":
            concepts = [c for c in concepts if c.id in {concept for concept, _ in held.colours}]
        case "heldout_count":
            concepts = [c for c in concepts if c.id in held.counts]
        case "heldout_language":
            concepts = [c for c in concepts if c.id in held.language]
        case "heldout_concept":
            concepts = [c for c in concepts if c.id in held.removed]
        case _:
            concepts = [c for c in concepts if c.id not in held.removed | held.near]
    if not from_shapes and split != "heldout_concept":
        concepts = [c for c in concepts if selection.holds(c.id)]
    if kind == "count":
        concepts = [c for c in concepts if c.is_countable]
    found = tuple(c for c in concepts if kind == "single" or not c.is_alone)
    if len(found) < (2 if kind == "pair" else 1):
        raise NothingToDraw(f"the selection has too few concepts for a {kind} scene of the {split} split; choose more")
    return found


def _tone(thing: Thing) -> Lab:
    if thing.colour is not None:
        return _target_tones()[thing.colour]
    assert thing.style is not None
    return corpus()[thing.concept].looks[thing.style].tone


@cache
def _target_tones() -> dict[str, Lab]:
    return {name: triple(goal) for name, goal in zip(COLOURS, targets(), strict=True)}
