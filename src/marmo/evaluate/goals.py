"""What Marmo's own small model must reach, and how far a model has come: a table with floors and goals.

    for row in reached(outcome, concepts=120, beside=Beside(autoencoder=loss)):
        print(row.goal.name, row.measured, row.verdict)

The floors and goals were set before any training.  A row is judged by its number, not by the lucky end of its interval;
what was not measured is said to be so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from marmo.data.captions import Language
from marmo.evaluate.geneval import concept_named
from marmo.evaluate.judging import Mark
from marmo.evaluate.reconstruction import Loss
from marmo.evaluate.scores import OVERALL, by_tag, heldout_gaps, language_gaps, minus, share_of
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Outcome

Unit = Literal["share", "points", "dB", "s", "times"]
"""Shares and differences of shares are from 0 to 1, and are told in percent and points."""
Verdict = Literal["goal", "floor", "below", "not measured"]

MANY = 200
"""Concepts from which on so many must be recognised less often."""
MOST = 4
"""The largest number that is counted."""


@dataclass(frozen=True)
class Goal:
    """A row of the table."""

    name: str
    unit: Unit
    floor: float
    goal: float
    is_limit: bool = False
    """Whether less is better."""

    def holds(self, value: float, bound: float) -> bool:
        """Whether a value is as good as a bound."""
        return value <= bound if self.is_limit else value >= bound


@dataclass(frozen=True)
class Reached:
    """A row with its number."""

    goal: Goal
    measured: Estimate | None
    detail: str = ""
    """What the number is of, where the name does not say it."""

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "not measured"
        if self.goal.holds(self.measured.value, self.goal.goal):
            return "goal"
        return "floor" if self.goal.holds(self.measured.value, self.goal.floor) else "below"


@dataclass(frozen=True)
class Beside:
    """What pictures of the prompts do not tell."""

    autoencoder: Loss | None = None
    """Of two-object scenes."""
    retrieval: Mapping[Language, Estimate] = field(default_factory=dict[Language, Estimate])
    """Of the CLIP that the model's text encoder comes from, among 100 scenes that no training has drawn."""
    warm: Estimate | None = None
    """Seconds of a picture with the model's own settings, all of it loaded."""
    start: Estimate | None = None
    """From the start of the process to the file, over `import torch` alone; benchmarks/start_bundled.py."""


def reached(outcome: Outcome | None, concepts: int, beside: Beside | None = None) -> Sequence[Reached]:
    """Every row of the table, in its order.

    Args:
        concepts: how many the model knows.
    """
    beside = Beside() if beside is None else beside
    marks = () if outcome is None else outcome.marks
    return [
        *_autoencoder(beside.autoencoder),
        *_retrieval(beside.retrieval),
        *_singles([mark for mark in marks if mark.question.part == "seen"], concepts, outcome),
        *_gaps(outcome),
        Reached(Goal("process start to PNG, over import torch", "times", 2.5, 1.8, True), beside.start),
        Reached(Goal("warm picture", "s", 1.0, 0.4, True), beside.warm),
    ]


def _autoencoder(loss: Loss | None) -> Iterator[Reached]:
    yield Reached(Goal("autoencoder on two-object scenes: PSNR", "dB", 31.0, 34.0), None if loss is None else loss.psnr)
    lost = None if loss is None else loss.lost
    yield Reached(Goal("the same: oracle accuracy lost", "points", 0.03, 0.01, True), lost)


def _retrieval(found: Mapping[Language, Estimate]) -> Iterator[Reached]:
    names: dict[Language, str] = {"en": "English", "zh": "Chinese"}
    for language, name in names.items():
        yield Reached(Goal(f"own CLIP, retrieval@1 among 100: {name}", "share", 0.70, 0.95), found.get(language))


def _singles(seen: Sequence[Mark], concepts: int, outcome: Outcome | None) -> Iterator[Reached]:
    """What the pictures of seen prompts show."""

    def of(tag: str, is_hit: Callable[[Mark], bool], most: int | None = None) -> Estimate | None:
        asked = [mark for mark in seen if mark.question.tag == tag and (most is None or _count(mark) <= most)]
        return share_of(asked, is_hit) if asked else None

    oracle = "" if outcome is None else outcome.oracle
    single = Goal("single concept, top 1 of all", "share", 0.65 if concepts <= MANY else 0.50, 0.92)
    yield Reached(single, of("single_object", lambda mark: _is_first(mark, oracle)))
    yield Reached(Goal("colour of a single object", "share", 0.85, 0.97), of("colors", lambda m: m.is_right(oracle)))
    yield Reached(Goal("two objects, both there", "share", 0.25, 0.85), of("position", lambda m: _are_there(m, oracle)))
    relation = Goal("the same: relation right as well", "share", 0.20, 0.75)
    yield Reached(relation, of("position", lambda m: m.is_right(oracle)), "colours that are asked for, too")
    yield Reached(Goal("count, 1 to 4", "share", 0.50, 0.85), of("counting", lambda m: m.is_right(oracle), MOST))


def _gaps(outcome: Outcome | None) -> Iterator[Reached]:
    """What held-out, Chinese and removed prompts cost."""
    loss = language = removed = None
    worst = ""
    if outcome is not None:
        held = {gap.part: gap.estimate for gap in heldout_gaps(outcome.marks, outcome.oracle) if gap.tag == OVERALL}
        held.pop("heldout_concept", None)
        if held:
            worst = min(held, key=lambda part: held[part].value)
            loss = _turned(held[worst])
        spoken = {gap.part: gap.estimate for gap in language_gaps(outcome.marks, outcome.oracle) if gap.tag == OVERALL}
        language = spoken.get("seen")
        removed = _over_chance(outcome)
    yield Reached(Goal("held-out combinations: largest loss", "points", 0.15, 0.05, True), loss, worst)
    apart = None if language is None else _size(language)
    yield Reached(Goal("Chinese against English: apart", "points", 0.05, 0.02, True), apart)
    yield Reached(Goal("removed concepts over chance", "points", 0.03, 0.03, True), removed)


def _over_chance(outcome: Outcome) -> Estimate | None:
    """Right pictures of removed concepts, less those that happen to answer another prompt."""
    removed, others = (
        by_tag([mark for mark in marks if mark.question.part == "heldout_concept"], outcome.oracle)
        for marks in (outcome.marks, outcome.floor.marks)
    )
    return minus(removed[OVERALL], others[OVERALL]) if removed and others else None


def _count(mark: Mark) -> int:
    return mark.question.prompt.record["include"][0]["count"]


def _is_first(mark: Mark, oracle: str) -> bool:
    """Whether what the oracle is surest of is the concept."""
    found = mark.sights[oracle].found
    return bool(found) and found[0].concept == concept_named(mark.question.prompt.record["include"][0]["class"])


def _are_there(mark: Mark, oracle: str) -> bool:
    return all(reason.check not in ("objects", "count") for reason in mark.sights[oracle].verdict.reasons)


def _turned(gap: Estimate) -> Estimate:
    """A loss is positive."""
    return Estimate(-gap.value, -gap.high, -gap.low, gap.n)


def _size(gap: Estimate) -> Estimate:
    """How far from 0, whichever way."""
    return gap if gap.value >= 0 else _turned(gap)
