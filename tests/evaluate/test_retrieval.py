"""Retrieval and deceit measure what they say: a perfect evaluator gets everything, a blind one gets chance."""

from collections.abc import Iterable, Sequence
from itertools import islice
from types import SimpleNamespace
from zlib import crc32

import pytest
import torch
from torch import Tensor

from marmo.data.atlas import drawn_now
from marmo.data.contrast import FACTS
from marmo.data.scenes import sample
from marmo.evaluate import retrieval


class Known:
    """An evaluator that sees the scenes' own captions, in the order in which they are asked; `noise` blinds it."""

    def __init__(self, texts: Iterable[str], noise: float = 0.0) -> None:
        self.texts, self.noise = iter(texts), noise
        self.clip = SimpleNamespace(logit_scale=torch.zeros(()))

    def look(self, pictures: Tensor) -> Tensor:
        seen = self.read(list(islice(self.texts, len(pictures))))
        return torch.lerp(seen, torch.randn(seen.shape, generator=torch.Generator().manual_seed(0)), self.noise)

    def read(self, texts: Sequence[str]) -> Tensor:
        """A direction of its own for every text."""
        generators = (torch.Generator().manual_seed(crc32(text.encode())) for text in texts)
        return torch.nn.functional.normalize(torch.stack([torch.randn(64, generator=one) for one in generators]))


@pytest.fixture(autouse=True)
def few_sprites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "atlas", drawn_now)


@pytest.mark.long
@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 0.97, 1.0), (1.0, 0.0, 0.06)])
def test_retrieval_is_between_chance_and_certainty(noise: float, least: float, most: float) -> None:
    asked = list(islice(retrieval._different(retrieval._told("all", "zh")), 200))
    evaluator = Known((one.sample.caption.text for one in asked), noise)
    found = retrieval.retrieval(evaluator, "all", "zh", groups=2, size=16)
    assert found.scenes == 200
    assert least <= found.by_picture <= most and least <= found.by_text <= most


@pytest.mark.long
@pytest.mark.parametrize("fact", FACTS)
def test_a_perfect_evaluator_is_not_deceived(fact: retrieval.Fact) -> None:
    asked = list(islice(retrieval._with_wrong(fact, "all"), 20))
    evaluator = Known(one.sample.caption.text for one, _ in asked)
    assert retrieval.deceived(evaluator, fact, number=20, size=16) == 0


def test_the_scenes_of_a_group_are_told_differently_in_one_language() -> None:
    texts = [one.sample.caption for one in islice(retrieval._different(retrieval._told("heldout_count", "en")), 150)]
    assert len({caption.text for caption in texts}) == 150 and {caption.language for caption in texts} == {"en"}


def test_the_questions_are_no_trainings() -> None:
    """Whose seeds are 0 and above, or that of the evaluator."""
    assert retrieval.TEST_SEED not in (-1, -1000) and retrieval.TEST_SEED < 0
    assert sample(retrieval.TEST_SEED, 0, "all") != sample(-1000, 0, "all")
