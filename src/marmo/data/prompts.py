"""The evaluation prompts: for every split and GenEval tag the same sentences in both languages, without end and fixed.

    prompts("seen")                 30 per tag, of scenes that training may draw
    prompts("heldout_colour")       what training never drew
    prompts(CONTROLS["heldout_colour"])     seen scenes of the same form, to hold it against
    prompts("seen", selection=chosen)       for a model that knows a list of concepts alone

They are made from the corpus alone, with seeds that no training uses, so no file holds them.  Each carries its record,
so the evaluator that checks training pictures checks generated ones, and a scene that is one right answer.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from marmo.data.captions import plain_caption
from marmo.data.scene import Record, Scene, record
from marmo.data.scenes import NothingToDraw, scene
from marmo.data.selection import EVERYTHING, Selection
from marmo.data.splits import HELDOUT_COUNT, Split

PROMPT_SEED = -1
"""Trainings count their seeds from 0."""

TAGS = ("single_object", "colors", "position", "counting")

Part = Literal[
    "seen",
    "seen_style",
    "seen_count",
    "heldout_style",
    "heldout_colour",
    "heldout_relation",
    "heldout_count",
    "heldout_language",
    "heldout_concept",
]

CONTROLS: dict[Part, Part] = {
    "heldout_style": "seen_style",
    "heldout_colour": "seen",
    "heldout_relation": "seen",
    "heldout_count": "seen_count",
    "heldout_language": "seen",
    "heldout_concept": "seen",
}
"""What a held-out part is compared with: the same tags, without the shapes, for no held-out part has any."""

PART_TAGS: dict[Part, tuple[str, ...]] = {
    "seen": TAGS,
    "seen_style": ("single_object", "colors"),
    "seen_count": ("counting",),
    "heldout_style": ("single_object", "colors"),
    "heldout_colour": ("colors",),
    "heldout_relation": ("position",),
    "heldout_count": ("counting",),
    "heldout_language": ("colors",),
    "heldout_concept": ("single_object", "colors"),
}
"""What the scenes of a part can be about: when there are enough of each, no more need be drawn."""

SEARCHED: dict[Part, int] = {"seen_count": 80}
"""Scenes drawn for each prompt of a tag, where 40 are too few."""


@dataclass(frozen=True)
class Prompt:
    """One question in two languages, and what a right answer shows."""

    en: str
    zh: str
    record: Record
    is_shape: bool
    style: str | None
    """To be asked for in the prompt where the split is about style: `en` and `zh` leave it open elsewhere."""
    scene: Scene
    """One right answer."""


def prompts(part: Part, per_tag: int = 30, selection: Selection = EVERYTHING) -> Sequence[Prompt]:
    """`per_tag` prompts for each tag that the part has, tags in GenEval's order, all different.

    More of them begin with the same ones.  Of a selection there may be fewer, or none.
    """
    found: dict[str, dict[str, Prompt]] = defaultdict(dict)
    for shown in _scenes(part, per_tag * SEARCHED.get(part, 40), selection):
        prompt = _prompt(shown, part)
        mine = found[prompt.record["tag"]]
        if len(mine) < per_tag:
            mine.setdefault(prompt.en, prompt)
        if all(len(found[tag]) == per_tag for tag in PART_TAGS[part]):
            break
    return [prompt for tag in TAGS for prompt in found[tag].values()]


def _scenes(part: Part, count: int, selection: Selection) -> Iterator[Scene]:
    """Those among the first `count` of a split that belong to a part; none where the split has nothing to draw."""
    for index in range(count):
        try:
            shown = scene(PROMPT_SEED, index, _split(part), selection)
        except NothingToDraw:
            return
        if _belongs(shown, part):
            yield shown


def _split(part: Part) -> Split:
    match part:
        case "seen" | "seen_style" | "seen_count":
            return "train"
        case _:
            return part


def _belongs(shown: Scene, part: Part) -> bool:
    is_drawn = not shown.things[0].is_shape
    match part:
        case "seen_style":
            return is_drawn and shown.kind == "single"
        case "seen_count":
            return is_drawn and shown.kind == "count" and len(shown.things) == HELDOUT_COUNT
        case _:
            return True


def _prompt(shown: Scene, part: Part) -> Prompt:
    style = shown.things[0].style
    names_style = part in ("seen_style", "heldout_style")
    en, zh = plain_caption(shown, "en"), plain_caption(shown, "zh")
    if names_style and style is not None:
        en, zh = f"{en} in {style.capitalize()} style", f"{zh}，{style.capitalize()}风格"
    truth = record(shown)
    if not names_style:
        truth.pop("style", None)  # the sentence leaves it open
    return Prompt(en, zh, truth, shown.things[0].is_shape, style if names_style else None, shown)
