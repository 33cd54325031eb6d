"""What is said about a scene: English sentences, Chinese sentences, lists of tags.

A colour that was put on a thing is always named, and so is a number; styles, sizes, backgrounds and where two things
stand may be left out.  Dropping captions altogether is the trainer's business.
"""

from dataclasses import dataclass
from typing import Literal

from marmo.data import chinese, english
from marmo.data.corpus import corpus
from marmo.data.dice import Dice
from marmo.data.scene import Scene, Thing
from marmo.data.splits import Split, held_out, needs_english
from marmo.data.words import Words

Language = Literal["en", "zh"]
Form = Literal["en", "zh", "tags"]

FORMS: dict[Form, float] = {"en": 0.5, "zh": 0.4, "tags": 0.1}
TAG_LANGUAGES: dict[Language, float] = {"en": 5, "zh": 4}

SYNONYM = 0.3
STYLE = 0.5
BACKGROUND = 0.35
SIZE = 0.3
NO_RELATION = 0.2


@dataclass(frozen=True)
class Caption:
    """A text, and how it was made."""

    text: str
    language: Language
    form: Literal["sentence", "tags"]
    words: Words


def caption(scene: Scene, dice: Dice, split: Split = "train") -> Caption:
    """One of the many captions that are true of `scene`, and allowed in `split`."""
    form = dice.weighted(FORMS)
    language = dice.weighted(TAG_LANGUAGES) if form == "tags" else form
    if needs_english(scene) and split not in ("heldout_language", "all"):
        language = "en"
    if split == "heldout_language":
        form = language = "zh"
    words = _words(scene, dice, language, split)
    grammar = english if language == "en" else chinese
    if form == "tags":
        return Caption(grammar.tags(scene, words, dice), language, "tags", words)
    return Caption(grammar.sentence(scene, words, dice), language, "sentence", words)


def plain_caption(scene: Scene, language: Language) -> str:
    """The one sentence with nothing left to chance: first names, the relation, no style, no background."""
    grammar = english if language == "en" else chinese
    names = tuple(getattr(corpus()[thing.concept], language)[0] for thing in _told(scene))
    return grammar.plain(scene, Words(names))


def _told(scene: Scene) -> tuple[Thing, ...]:
    return scene.things if scene.kind == "pair" else scene.things[:1]


def _words(scene: Scene, dice: Dice, language: Language, split: Split) -> Words:
    names = tuple(_name(thing, dice, language, split) for thing in _told(scene))
    if scene.kind == "count" and not english.is_countable(names[0]):
        names = (corpus()[scene.things[0].concept].en[0],)
    has_style = scene.things[0].style is not None
    return Words(
        names,
        style=scene.things[0].style if has_style and dice.chance(STYLE) else None,
        has_background=dice.chance(BACKGROUND),
        size=_size(scene) if dice.chance(SIZE) else None,
        has_relation=not dice.chance(NO_RELATION),
    )


def _name(thing: Thing, dice: Dice, language: Language, split: Split) -> str:
    """The first name, or a synonym; for training one that contains no name of a removed concept."""
    concept = corpus()[thing.concept]
    first, *others = concept.en if language == "en" else concept.zh
    if split not in ("heldout_concept", "all"):
        others = [name for name in others if not held_out().mentions_removed(name)]
    return dice.choice(others) if others and dice.chance(SYNONYM) else first


def _size(scene: Scene) -> Literal["big", "small"] | None:
    """Only a thing that stands alone is big or small, by how much of the frame it fills."""
    if scene.kind != "single":
        return None
    side = scene.things[0].side
    return "big" if side > 0.88 else "small" if side < 0.64 else None
