"""Oracles look at pictures, and GenEval's rules decide.  The first oracle gives the score; a second is its guard."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from marmo.data.scene import Record
from marmo.evaluate.found import Found, Oracle
from marmo.evaluate.gallery import Answer
from marmo.evaluate.geneval import GENEVAL, Rules, Verdict, judge
from marmo.evaluate.pictures import as_pixels
from marmo.evaluate.questions import Question

BATCH = 32

OracleName = str
Oracles = Mapping[OracleName, Oracle]
"""By name, the one that counts first."""


@dataclass(frozen=True)
class Sight:
    """What one oracle saw in a picture, and whether that is what was asked for."""

    found: tuple[Found, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Mark:
    """A picture, judged."""

    answer: Answer
    size: tuple[int, int]
    """Width and height, in pixels."""
    sights: Mapping[OracleName, Sight]

    @property
    def question(self) -> Question:
        return self.answer.question

    def is_right(self, oracle: OracleName) -> bool:
        return self.sights[oracle].verdict.is_right

    def seen_as(self, oracle: OracleName, found: Sequence[Found], rules: Rules = GENEVAL) -> "Mark":
        """With what one more oracle sees."""
        sight = _sight(self.question.prompt.record, found, self.size, rules)
        return replace(self, sights={**self.sights, oracle: sight})

    def against(self, record: Record, rules: Rules = GENEVAL) -> "Mark":
        """The same picture, held against another record."""
        return replace(
            self, sights={name: _sight(record, s.found, self.size, rules) for name, s in self.sights.items()}
        )


def marked(answers: Iterable[Answer], oracles: Oracles, rules: Rules = GENEVAL) -> Iterator[Mark | None]:
    """A mark per answer, in order, read in batches; None for a picture that cannot be read."""
    for batch in _batches(answers):
        readable = [(answer, picture) for answer, picture in batch if picture is not None]
        marks = iter(_judged(readable, oracles, rules) if readable else [])
        yield from (None if picture is None else next(marks) for _, picture in batch)


def _judged(batch: Sequence[tuple[Answer, Image.Image]], oracles: Oracles, rules: Rules) -> list[Mark]:
    """Pictures of one size."""
    pixels = torch.stack([as_pixels(picture) for _, picture in batch])
    marks = [Mark(answer, picture.size, {}) for answer, picture in batch]
    for name, oracle in oracles.items():
        seen = zip(marks, oracle(pixels), strict=True)
        marks = [mark.seen_as(name, found, rules) for mark, found in seen]
    return marks


def _sight(record: Record, found: Sequence[Found], size: tuple[int, int], rules: Rules) -> Sight:
    return Sight(tuple(found), judge(record, found, rules, aspect=size[0] / size[1]))


def _batches(answers: Iterable[Answer]) -> Iterator[list[tuple[Answer, Image.Image | None]]]:
    """Neighbours of one size, so that they fit into a tensor; what cannot be read fits everywhere."""
    batch, size = list[tuple[Answer, Image.Image | None]](), None
    for answer in answers:
        picture = answer.load()
        if batch and (len(batch) == BATCH or (picture is not None and size not in (None, picture.size))):
            yield batch
            batch, size = [], None
        batch.append((answer, picture))
        size = size if picture is None else picture.size
    if batch:
        yield batch
