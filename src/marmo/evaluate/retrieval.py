"""How well an evaluator knows scenes: it finds the caption of a picture, the picture of a caption, and is not deceived.

    python -m marmo.evaluate.retrieval --json            # the bundled evaluator

Retrieval: among 100 scenes with 100 different captions, how often a scene's own caption is the nearest, and the
reverse.  Deceit: of a true caption and one that is wrong by one fact (`marmo.data.contrast`), how often the wrong one
is nearer; a coin gets one half.

Scenes come from seeds that no training uses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor

from marmo.data.atlas import atlas
from marmo.data.captions import Language
from marmo.data.compose import compose
from marmo.data.contrast import Fact, wrong_caption
from marmo.data.scenes import Sample, sample
from marmo.data.splits import Split
from marmo.evaluate.evaluator import Evaluator

TEST_SEED = -2000
"""Of the scenes that are asked about."""
AMONG = 100


@dataclass(frozen=True)
class Asked:
    """A sample and where it stands, so that it can be told again."""

    index: int
    sample: Sample


@dataclass(frozen=True)
class Retrieval:
    """Shares of right answers at the first attempt, over all groups of 100."""

    by_picture: float
    """A picture's caption is found."""
    by_text: float
    """A caption's picture is found."""
    scenes: int


def retrieval(evaluator: Evaluator, split: Split, language: Language, groups: int = 5, size: int = 128) -> Retrieval:
    """Among 100 scenes of a split, told in a language."""
    found = [0, 0]
    asked = _told(split, language)
    for _ in range(groups):
        group = list(islice(_different(asked), AMONG))
        cosines = _look(evaluator, group, size) @ evaluator.read([one.sample.caption.text for one in group]).T
        for way, scores in enumerate((cosines, cosines.T)):
            found[way] += int((scores.argmax(1).cpu() == torch.arange(AMONG)).sum())
    return Retrieval(found[0] / (groups * AMONG), found[1] / (groups * AMONG), groups * AMONG)


def deceived(evaluator: Evaluator, fact: Fact, number: int = 300, split: Split = "all", size: int = 128) -> float:
    """How often, of a true caption and one with this fact changed, the wrong one is nearer; one half is chance."""
    asked = list(islice(_with_wrong(fact, split), number))
    pictures = _look(evaluator, [one for one, _ in asked], size)
    right, wrong = (
        (pictures * evaluator.read(texts)).sum(1)
        for texts in ([one.sample.caption.text for one, _ in asked], [text for _, text in asked])
    )
    return float((wrong >= right).float().mean())


def _told(split: Split, language: Language) -> Iterator[Asked]:
    """The samples of a split that happen to be told in a language."""
    for index in count():
        made = sample(TEST_SEED, index, split)
        if made.caption.language == language:
            yield Asked(index, made)


def _different(asked: Iterator[Asked]) -> Iterator[Asked]:
    """Without a caption that came before."""
    known = set[str]()
    for one in asked:
        if one.sample.caption.text not in known:
            known.add(one.sample.caption.text)
            yield one


def _with_wrong(fact: Fact, split: Split) -> Iterator[tuple[Asked, str]]:
    for index in count():
        made = sample(TEST_SEED, index, split)
        wrong = wrong_caption(TEST_SEED, index, made, split, (fact,))
        if wrong is not None:
            yield Asked(index, made), wrong.text


def _look(evaluator: Evaluator, asked: Sequence[Asked], size: int) -> Tensor:
    device = evaluator.clip.logit_scale.device
    return evaluator.look(compose([one.sample.scene for one in asked], size, atlas(device)))
