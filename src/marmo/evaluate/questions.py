"""The questions of an evaluation: each evaluation prompt in each language with each seed, one picture each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import get_args

from marmo.data.captions import Language
from marmo.data.prompts import Part, Prompt, prompts
from marmo.data.selection import EVERYTHING, Selection

PARTS: tuple[Part, ...] = get_args(Part)
LANGUAGES: tuple[Language, ...] = ("en", "zh")
PER_TAG = 30
SEEDS = 4


@dataclass(frozen=True)
class Question:
    """One picture to be painted."""

    part: Part
    number: int
    """Of the prompt, among those of its part and tag."""
    prompt: Prompt
    language: Language
    seed: int

    @property
    def text(self) -> str:
        return self.prompt.en if self.language == "en" else self.prompt.zh

    @property
    def tag(self) -> str:
        return self.prompt.record["tag"]

    @property
    def cluster(self) -> tuple[Part, str, int]:
        """The prompt: pictures of one prompt succeed and fail together."""
        return self.part, self.tag, self.number

    @property
    def file_name(self) -> str:
        return f"{self.part}/{self.tag}-{self.number:03}-{self.language}-{self.seed}.png"


def questions(
    parts: Sequence[Part] = PARTS,
    per_tag: int = PER_TAG,
    languages: Sequence[Language] = LANGUAGES,
    seeds: int = SEEDS,
    selection: Selection = EVERYTHING,
) -> list[Question]:
    """All of them; those of one prompt and language stand together, seeds rising from 0.

    Args:
        selection: what the model knows.  Nothing else is asked but `heldout_concept`, which nobody knows.
    """
    return [
        Question(part, number, prompt, language, seed)
        for part in parts
        for number, prompt in _numbered(prompts(part, per_tag, selection))
        for language in languages
        for seed in range(seeds)
    ]


def chosen_parts(names: Sequence[str]) -> list[Part]:
    """Parts by name, all of them for no name; `ValueError` for another name."""
    unknown = set(names) - set(PARTS)
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is no part of the prompts; the parts are {', '.join(PARTS)}")
    return [part for part in PARTS if part in names or not names]


def recognised(texts: Iterable[str | None], asked: Iterable[Question]) -> list[Question | None]:
    """Which of the prompts that are asked these pictures answer; None for a text that is none of them.

    The first picture of a prompt has seed 0, the next seed 1.  A prompt of two parts belongs to the first of them.
    """
    known: dict[str, Question] = {}
    for question in asked:
        known.setdefault(question.text, question)
    times = {text: count() for text in known}
    return [replace(known[text], seed=next(times[text])) if text in known else None for text in texts]


def _numbered(asked: Iterable[Prompt]) -> Iterator[tuple[int, Prompt]]:
    """Each with its number among those of its tag."""
    numbers = Counter[str]()
    for prompt in asked:
        tag = prompt.record["tag"]
        yield numbers[tag], prompt
        numbers[tag] += 1
