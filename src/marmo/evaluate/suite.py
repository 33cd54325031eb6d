"""The compositional evaluation: pictures of known prompts in, scores with their ceiling and floor out.

asked = questions(per_tag=30, seeds=4)
prepare(folder, asked, {"model": "..."})
for question in paint(folder, missing(folder, asked), painter): ...
outcome = evaluate(painted(folder, asked), {"oracle": load_oracle(None), "guard": ...})
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from marmo.evaluate import limits
from marmo.evaluate.found import truth
from marmo.evaluate.gallery import Answer
from marmo.evaluate.geneval import GENEVAL, Rules
from marmo.evaluate.judging import Mark, OracleName, Oracles, marked
from marmo.evaluate.limits import PERFECT, Change
from marmo.evaluate.questions import Question
from marmo.evaluate.scores import by_tag

MAX_SIZE = 256
"""Of the pictures that show ceiling and floor, in pixels; as large as those that are judged, if these are no larger."""

CEILING = 0.95
"""Real renders that score less mean that the oracle, and not the model, is measured."""
FLOOR = 0.05
"""Pictures that answer nothing, and score this much more than chance, mean the same."""

REAL, SHUFFLED = "real renders", "shuffled captions"


@dataclass(frozen=True)
class Limit:
    """Pictures that no model painted, for an upper or a lower end of the scale; a perfect oracle saw them too."""

    name: str
    is_ceiling: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Outcome:
    """All that an evaluation found out."""

    marks: tuple[Mark, ...]
    """In the order of the pictures."""
    oracles: tuple[OracleName, ...]
    """The one that counts first."""
    limits: tuple[Limit, ...]
    unreadable: int
    """Pictures that are there and could not be read."""

    @property
    def oracle(self) -> OracleName:
        return self.oracles[0]

    @property
    def ceiling(self) -> Limit:
        """Real renders."""
        return next(limit for limit in self.limits if limit.name == REAL)

    @property
    def floor(self) -> Limit:
        """The same pictures held against other prompts."""
        return next(limit for limit in self.limits if limit.name == SHUFFLED)

    @property
    def warnings(self) -> list[str]:
        """A sentence for every limit that shows the instrument to be unfit."""
        return [sentence for limit in self.limits for oracle in self.oracles for sentence in _warnings(limit, oracle)]


def evaluate(
    answers: Iterable[Answer],
    oracles: Oracles,
    *,
    rules: Rules = GENEVAL,
    reconstruct: Change = limits.jpeg,
) -> Outcome:
    """Judge pictures, and the instrument on the same prompts.

    Args:
        oracles: by name; the first gives the scores, the others are shown beside it.
        reconstruct: what a model's autoencoder does to pictures; by default a JPEG of low quality.

    Raises:
        ValueError: where there is no picture that can be read.
    """
    found = list(marked(answers, oracles, rules))
    marks = [mark for mark in found if mark is not None]
    if not marks:
        raise ValueError("there is no picture to judge: none answers an evaluation prompt and can be read")
    size = min(*marks[0].size, MAX_SIZE)
    ends = instrument([mark.question for mark in marks], oracles, size, rules=rules, reconstruct=reconstruct)
    own = Limit(SHUFFLED, False, tuple(limits.shuffled(marks, rules)))
    return Outcome(tuple(marks), tuple(oracles), (*ends, own), len(found) - len(marks))


def instrument(
    questions: Iterable[Question],
    oracles: Oracles,
    size: int,
    *,
    rules: Rules = GENEVAL,
    reconstruct: Change = limits.jpeg,
) -> Iterator[Limit]:
    """Ceilings and floors on these prompts, each prompt once."""
    asked = limits.once(questions)
    for name, change in limits.changes(reconstruct).items():
        marks = _seen(limits.renders(asked, size, change), oracles, rules)
        known = [mark.seen_as(PERFECT, truth(mark.question.prompt.scene), rules) for mark in marks]
        yield Limit(name, True, tuple(known))
        if name == REAL:
            yield Limit("shuffled real renders", False, tuple(limits.shuffled(known, rules)))
    for name, answers in (("blobs", limits.blobs(asked, size)), ("noise", limits.noise(asked, size))):
        marks = _seen(answers, oracles, rules)
        yield Limit(name, False, tuple(mark.seen_as(PERFECT, [], rules) for mark in marks))


def _seen(answers: Iterable[Answer], oracles: Oracles, rules: Rules) -> list[Mark]:
    return [mark for mark in marked(answers, oracles, rules) if mark is not None]


def _warnings(limit: Limit, oracle: OracleName) -> Iterator[str]:
    """Where one oracle is unfit."""
    perfect = by_tag(limit.marks, PERFECT)
    for tag, score in by_tag(limit.marks, oracle).items():
        if limit.name == REAL and score.value < CEILING:
            yield f"{oracle} finds {score.value:.0%} of the {tag} prompts right on real renders, and not {CEILING:.0%}"
        if not limit.is_ceiling and score.value > perfect[tag].value + FLOOR:
            chance = f"chance is {perfect[tag].value:.0%}"
            yield f"{oracle} finds {score.value:.0%} of the {tag} prompts right on {limit.name}, and {chance}"
