"""How well an evaluator knows scenes: it finds the caption of a picture, the picture of a caption, and is not deceived.

    python -m marmo.evaluate.retrieval                   # the bundled evaluator

Retrieval: among 100 scenes with 100 different captions, how often a scene's own caption is the nearest, and the
reverse.  Deceit: of a true caption and one that is wrong by one fact (`marmo.data.contrast`), how often the wrong one
is nearer; a coin gets one half.

Scenes come from seeds that no training uses.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import get_args

import torch
import tyro
from torch import Tensor

from marmo.data.atlas import atlas
from marmo.data.captions import Language
from marmo.data.compose import compose
from marmo.data.contrast import FACTS, Fact, wrong_caption
from marmo.data.scenes import Sample, sample
from marmo.data.selection import EVERYTHING, Selection
from marmo.data.splits import Split
from marmo.evaluate.evaluator import Evaluator, load_evaluator
from marmo.evaluate.statistics import Estimate, wilson

TEST_SEED = -2000
"""Of the scenes that are asked about."""
AMONG = 100
LANGUAGES: tuple[Language, ...] = get_args(Language)
SPLITS: tuple[Split, ...] = tuple(split for split in get_args(Split) if split != "train")


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

    @property
    def worse(self) -> Estimate:
        """The harder of the two ways."""
        value = min(self.by_picture, self.by_text)
        return Estimate(value, *wilson(value * self.scenes, self.scenes), self.scenes)


@dataclass(frozen=True)
class Scores:
    """Retrieval by split and language, and how often each wrong fact deceives."""

    retrieval: Mapping[str, Retrieval]
    deceived: Mapping[Fact, float]


def retrieval(
    evaluator: Evaluator,
    split: Split,
    language: Language,
    groups: int = 5,
    size: int = 128,
    selection: Selection = EVERYTHING,
) -> Retrieval:
    """Among 100 scenes of a split, told in a language."""
    found = [0, 0]
    asked = _told(split, language, selection)
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


def scores(evaluator: Evaluator, splits: Sequence[Split], groups: int = 5, pairs: int = 300) -> Scores:
    """Everything that this file measures."""
    found = {
        f"{split} {language}": retrieval(evaluator, split, language, groups)
        for split in splits
        for language in LANGUAGES
        if (split, language) != ("heldout_language", "en")  # it is told in Chinese alone
    }
    return Scores(found, {fact: deceived(evaluator, fact, pairs) for fact in FACTS})


def _told(split: Split, language: Language, selection: Selection = EVERYTHING) -> Iterator[Asked]:
    """The samples of a split that happen to be told in a language."""
    for index in count():
        made = sample(TEST_SEED, index, split, selection)
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


@dataclass(frozen=True)
class Measure:
    """Measure an evaluator on scenes that no training has seen; prints JSON."""

    path: tyro.conf.Positional[Path | None] = None
    """A CLIP; the bundled one by default"""
    groups: int = 5
    """Of 100 scenes, for every split and language"""
    pairs: int = 300
    """Scenes for every fact that is changed"""
    device: str = "cpu"

    def run(self) -> None:
        """Load, ask, print."""
        found = scores(load_evaluator(self.path, self.device), SPLITS, self.groups, self.pairs)
        print(json.dumps(asdict(found), indent=1))


if __name__ == "__main__":
    tyro.cli(Measure, description=Measure.__doc__).run()
