"""Captions that are wrong of a scene by one fact: what a CLIP must tell apart to know more than which words occur.

Networks that compare pictures with texts learn words before they learn what belongs to what (Yuksekgonul et al. 2023,
https://arxiv.org/abs/2210.01936).  Here the scene graph is known, so one fact of it is changed, and the changed scene
is told in the same manner, by the same dice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from marmo.data.captions import caption
from marmo.data.colours import COLOURS
from marmo.data.corpus import STYLES, Style, corpus
from marmo.data.dice import Dice
from marmo.data.scene import Scene, Thing
from marmo.data.scenes import Sample, caption_dice, pool
from marmo.data.selection import EVERYTHING, Selection
from marmo.data.splits import Split, broken_rules

Fact = Literal["concept", "style", "colour", "count", "colours", "places", "relation"]
"""What is changed: a concept, the style, a colour, the number; of a pair, the colours or the places are exchanged, or
left becomes above and above left."""

FACTS: tuple[Fact, ...] = get_args(Fact)

T = TypeVar("T")


@dataclass(frozen=True)
class Wrong:
    """A caption that is not true, and which fact is to blame."""

    text: str
    fact: Fact


def wrong_caption(
    seed: int,
    index: int,
    sample: Sample,
    split: Split = "train",
    facts: Sequence[Fact] = FACTS,
    selection: Selection = EVERYTHING,
) -> Wrong | None:
    """A caption of sample `index` of `seed` that is wrong by one of `facts`; `None` where the true one tells none.

    A concept is always told.  Where the split holds something out, no wrong caption tells of it either, and none of a
    concept outside the selection.
    """
    dice = Dice(f"{corpus().version}/wrong/{split}/{seed}/{index}")
    left = list(facts)
    while left:
        fact = dice.choice(left)
        left.remove(fact)
        for changed in _changes(fact, sample, dice, split, selection):
            if split == "all" or not broken_rules(changed) - broken_rules(sample.scene):
                text = caption(changed, caption_dice(seed, index, split), split).text
                if text != sample.caption.text:
                    return Wrong(text, fact)
    return None


def _changes(fact: Fact, sample: Sample, dice: Dice, split: Split, selection: Selection) -> Iterator[Scene]:
    """The scenes in which only this fact is another, in random order; none where the caption does not tell it."""
    shown, words = sample.scene, sample.caption.words
    coloured = [place for place, thing in enumerate(shown.things) if thing.colour is not None]
    places = coloured if fact == "colour" and coloured else range(len(shown.things))
    number = dice.choice(places) if shown.kind == "pair" else None
    thing = shown.things[number or 0]
    match fact:
        case "concept":
            taken = {thing.concept for thing in shown.things}
            fitting = pool(shown.kind, thing.is_shape, split, selection)
            options = [concept.id for concept in fitting if concept.id not in taken]
            return (_altered(shown, number, concept=id) for id in _mixed(options, dice))
        case "style":
            styles: list[Style] = [style for style in STYLES if words.style not in (None, style)]
            return (_altered(shown, None, style=style) for style in _mixed(styles, dice))
        case "colour":
            names = [name for name in COLOURS if thing.colour not in (None, name)]
            return (_altered(shown, number, colour=name) for name in _mixed(names, dice))
        case "count":
            counts = [count for count in range(1, 7) if shown.kind == "count" and count != len(shown.things)]
            return (replace(shown, things=(thing,) * count) for count in _mixed(counts, dice))
        case "colours" | "places" | "relation":
            return iter(_exchanged(fact, shown) if shown.kind == "pair" and words.has_relation else [])


def _exchanged(fact: Fact, shown: Scene) -> list[Scene]:
    """A pair that is told with its relation, with something the other way round."""
    first, second = shown.things
    match fact:
        case "colours" if None not in (first.colour, second.colour):
            things = replace(first, colour=second.colour), replace(second, colour=first.colour)
            return [replace(shown, things=things)]
        case "places":
            return [replace(shown, things=(second, first))]
        case "relation":
            return [replace(shown, relation="above" if shown.relation == "left" else "left")]
        case _:
            return []


def _altered(
    shown: Scene, number: int | None, concept: str | None = None, style: Style | None = None, colour: str | None = None
) -> Scene:
    """One thing, or all of them, with another concept, style or colour."""

    def change(thing: Thing) -> Thing:
        return replace(
            thing,
            concept=concept or thing.concept,
            style=style or thing.style,
            colour=colour or thing.colour,
        )

    things = [change(thing) if number in (None, place) else thing for place, thing in enumerate(shown.things)]
    return replace(shown, things=tuple(things))


def _mixed(options: Sequence[T], dice: Dice) -> Iterator[T]:
    """In random order."""
    left = list(options)
    while left:
        option = dice.choice(left)
        left.remove(option)
        yield option
