"""The evaluation prompts: for every split and GenEval tag the same sentences in both languages, without end and fixed.

    prompts("seen")                 30 per tag, of scenes that training may draw
    prompts("heldout_colour")       what training never drew

They are made from the corpus alone, with seeds that no training uses, so no file holds them.  Each carries its record,
so the evaluator that checks training pictures checks generated ones.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from marmo.data.captions import plain_caption
from marmo.data.scene import Record, Scene, record
from marmo.data.scenes import scene
from marmo.data.splits import Split

PROMPT_SEED = -1
"""Trainings count their seeds from 0."""

TAGS = ("single_object", "colors", "position", "counting")

Part = Literal[
    "seen",
    "heldout_style",
    "heldout_colour",
    "heldout_relation",
    "heldout_count",
    "heldout_language",
    "heldout_concept",
]


@dataclass(frozen=True)
class Prompt:
    """One question in two languages, and what a right answer shows."""

    en: str
    zh: str
    record: Record
    is_shape: bool
    style: str | None
    """To be asked for in the prompt where the split is about style: `en` and `zh` leave it open elsewhere."""


def prompts(part: Part, per_tag: int = 30) -> Sequence[Prompt]:
    """`per_tag` prompts for each tag that the split has, tags in GenEval's order, all different."""
    split: Split = "train" if part == "seen" else part
    found: dict[str, dict[str, Prompt]] = defaultdict(dict)
    for index in range(per_tag * 40):
        prompt = _prompt(scene(PROMPT_SEED, index, split), part)
        mine = found[prompt.record["tag"]]
        if len(mine) < per_tag:
            mine.setdefault(prompt.en, prompt)
    return [prompt for tag in TAGS for prompt in found[tag].values()]


def _prompt(shown: Scene, part: Part) -> Prompt:
    style = shown.things[0].style
    en, zh = plain_caption(shown, "en"), plain_caption(shown, "zh")
    if part == "heldout_style" and style is not None:
        en, zh = f"{en} in {style.capitalize()} style", f"{zh}，{style.capitalize()}风格"
    truth = record(shown)
    if part != "heldout_style":
        truth.pop("style", None)  # the sentence leaves it open
    return Prompt(en, zh, truth, shown.things[0].is_shape, style if part == "heldout_style" else None)
