"""Shares of right pictures, with intervals: per part, tag and language, and the differences between them.

Pictures of one prompt succeed and fail together, so intervals are those of prompts drawn anew, not of pictures.
A part's overall score is the mean over its tags, as GenEval's is.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

import torch

from marmo.data.captions import Language
from marmo.data.prompts import CONTROLS, TAGS, Part
from marmo.evaluate.geneval import CHECKS, Check
from marmo.evaluate.judging import Mark, OracleName
from marmo.evaluate.questions import LANGUAGES, PARTS
from marmo.evaluate.statistics import Estimate, average, cluster_numbers, share

OVERALL = "overall"

T = TypeVar("T")


@dataclass(frozen=True)
class Score:
    """The share of right pictures among some."""

    part: Part
    tag: str
    """One of GenEval's, or `overall`."""
    language: Language | None
    """None: both together."""
    oracle: OracleName
    estimate: Estimate


@dataclass(frozen=True)
class Gap:
    """How much lower one score is than another that it is compared with."""

    part: Part
    tag: str
    against: str
    """`seen`, or a language."""
    estimate: Estimate
    """Score of what is compared, minus what it is compared with: negative is worse."""


def scores(marks: Sequence[Mark], oracle: OracleName) -> list[Score]:
    """Of every part, its tags, then overall; in each language, then in both."""
    found = list[Score]()
    for part in PARTS:
        mine = [mark for mark in marks if mark.question.part == part]
        spoken: list[Language | None] = [
            language for language in LANGUAGES if any(mark.question.language == language for mark in mine)
        ]
        for language in spoken if len(spoken) == 1 else (*spoken, None):
            said = [mark for mark in mine if language in (None, mark.question.language)]
            found += [Score(part, tag, language, oracle, score) for tag, score in by_tag(said, oracle).items()]
    return found


def by_tag(marks: Sequence[Mark], oracle: OracleName) -> dict[str, Estimate]:
    """The score of each tag that occurs, and the mean of them."""
    tags = [tag for tag in TAGS if any(mark.question.tag == tag for mark in marks)]
    parts = {tag: right([mark for mark in marks if mark.question.tag == tag], oracle) for tag in tags}
    return {**parts, OVERALL: average(list(parts.values()))} if parts else {}


def told(tags: Mapping[str, T]) -> dict[str, T]:
    """What is worth telling: the mean over the tags not where there is one tag."""
    return {tag: value for tag, value in tags.items() if len(tags) > 2 or tag != OVERALL}


def right(marks: Sequence[Mark], oracle: OracleName) -> Estimate:
    """The share of these that are right."""
    return share_of(marks, lambda mark: mark.is_right(oracle))


def share_of(marks: Sequence[Mark], is_hit: Callable[[Mark], bool]) -> Estimate:
    """The share of these of which something is so."""
    return share(torch.tensor([float(is_hit(mark)) for mark in marks]), _clusters(marks))


def heldout_gaps(marks: Sequence[Mark], oracle: OracleName) -> list[Gap]:
    """Each held-out part against seen prompts of the same form: the price of never having been seen.

    `heldout_language` is held out in Chinese alone, so only Chinese is compared.
    """
    gaps = list[Gap]()
    for part, control in CONTROLS.items():
        heldout, seen = _like(marks, part, part), _like(marks, control, part)
        scored, known = by_tag(heldout, oracle), by_tag(seen, oracle)
        common = [tag for tag in TAGS if tag in scored and tag in known]
        apart = {tag: minus(scored[tag], known[tag]) for tag in common}
        if apart:
            apart[OVERALL] = average(list(apart.values()))
        gaps += [Gap(part, tag, control, gap) for tag, gap in apart.items()]
    return gaps


def language_gaps(marks: Sequence[Mark], oracle: OracleName) -> list[Gap]:
    """Chinese against English: the same prompts with the same seeds."""
    gaps = list[Gap]()
    for part in PARTS:
        paired = _pairs([mark for mark in marks if mark.question.part == part])
        tags = [tag for tag in TAGS if any(chinese.question.tag == tag for chinese, _ in paired)]
        apart = {tag: _paired([pair for pair in paired if pair[0].question.tag == tag], oracle) for tag in tags}
        if apart:
            apart[OVERALL] = average(list(apart.values()))
        gaps += [Gap(part, tag, "en", gap) for tag, gap in apart.items()]
    return gaps


def minus(first: Estimate, second: Estimate, correlation: float = 0.0) -> Estimate:
    """The difference of two numbers from their intervals, MOVER: Zou and Donner (2008), Newcombe (1998) for pairs.

    Unlike a bootstrap it keeps an interval where all pictures are right, or all are wrong.
    """
    value = first.value - second.value
    below = _joined(first.value - first.low, second.high - second.value, correlation)
    above = _joined(first.high - first.value, second.value - second.low, correlation)
    return Estimate(value, max(value - below, -1.0), min(value + above, 1.0), first.n + second.n)


def faults(marks: Sequence[Mark], oracle: OracleName) -> dict[str, Counter[Check]]:
    """By tag: the first thing wrong with each wrong picture."""
    counted: dict[str, Counter[Check]] = defaultdict(lambda: Counter(dict.fromkeys(CHECKS, 0)))
    for mark in marks:
        reasons = mark.sights[oracle].verdict.reasons
        counted[mark.question.tag].update(reason.check for reason in reasons[:1])
    return {tag: counted[tag] for tag in TAGS if tag in counted}


def agreement(marks: Sequence[Mark], first: OracleName, second: OracleName) -> Estimate:
    """The share of pictures on which two oracles decide alike."""
    alike = [float(mark.is_right(first) == mark.is_right(second)) for mark in marks]
    return share(torch.tensor(alike), _clusters(marks))


def _like(marks: Sequence[Mark], part: Part, heldout: Part) -> list[Mark]:
    """The pictures of a part that a held-out part can be compared with."""
    return [
        mark
        for mark in marks
        if mark.question.part == part
        and not mark.question.prompt.is_shape
        and (heldout != "heldout_language" or mark.question.language == "zh")
    ]


def _pairs(marks: Sequence[Mark]) -> list[tuple[Mark, Mark]]:
    """Chinese and English of the same prompt and seed."""
    english = {(m.question.cluster, m.question.seed): m for m in marks if m.question.language == "en"}
    chinese = [mark for mark in marks if mark.question.language == "zh"]
    keys = [(mark.question.cluster, mark.question.seed) for mark in chinese]
    return [(mark, english[key]) for mark, key in zip(chinese, keys, strict=True) if key in english]


def _paired(pairs: Sequence[tuple[Mark, Mark]], oracle: OracleName) -> Estimate:
    chinese, english = zip(*pairs, strict=True)
    return minus(right(chinese, oracle), right(english, oracle), _correlation(chinese, english, oracle))


def _correlation(first: Sequence[Mark], second: Sequence[Mark], oracle: OracleName) -> float:
    """Over prompts, of two lists of pictures that belong together; 0 where one of them never changes."""
    shares = torch.stack([_by_prompt(first, oracle), _by_prompt(second, oracle)])
    if shares.shape[1] < 3 or (shares.std(1) == 0).any():
        return 0.0
    return float(shares.corrcoef()[0, 1])


def _by_prompt(marks: Sequence[Mark], oracle: OracleName) -> torch.Tensor:
    """The share of right pictures of each prompt."""
    clusters, hits = _clusters(marks), _hits(marks, oracle)
    return torch.zeros(int(clusters.max()) + 1).index_add(0, clusters, hits) / clusters.bincount()


def _joined(one: float, other: float, correlation: float) -> float:
    """The reach of a difference from the reaches of its ends."""
    return sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))


def _hits(marks: Sequence[Mark], oracle: OracleName) -> torch.Tensor:
    return torch.tensor([float(mark.is_right(oracle)) for mark in marks])


def _clusters(marks: Sequence[Mark]) -> torch.Tensor:
    return cluster_numbers([str(mark.question.cluster) for mark in marks])
