"""The copying report on models of known honesty: one that draws, one that copies, one that shrinks, one that blurs."""

import math

import pytest
import torch
from torch import Tensor

from marmo.evaluate import neighbours as blockwise
from marmo.evaluate.copying import (
    authenticity,
    copy_test,
    examine,
    mann_whitney,
    near_copies,
    neighbours,
    split_test,
    twins,
)
from marmo.evaluate.neighbours import centres

WIDTH = 6


def pictures(count: int, seed: int) -> Tensor:
    """Three clouds, as features of three subjects."""
    draw = torch.Generator().manual_seed(seed)
    middles = 8 * torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(99))
    return middles[torch.randint(3, (count,), generator=draw)] + torch.randn(count, WIDTH, generator=draw)


TRAIN, HELDOUT = pictures(500, 1), pictures(400, 2)
HONEST = pictures(600, 3)
COPIES = TRAIN[:200] + 0.01 * torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(4))
HALF_COPIES = torch.cat([HONEST[:400], COPIES])


def shrunk() -> Tensor:
    """The middle of every cloud: typical pictures only, and no memory of any."""
    middles = centres(HELDOUT, 3)
    near = torch.cdist(HONEST.double(), middles).argmin(1)
    return (middles[near] + 0.3 * (HONEST - middles[near])).float()


def test_an_honest_model_is_not_accused():
    report = examine(HONEST, TRAIN, HELDOUT)
    assert abs(report.split.z) < 3
    assert abs(report.copy.z) < 3
    assert report.near_copies.heldout.covers(report.near_copies.generated.value)
    assert abs(report.authentic.generated.value - report.authentic.heldout.value) < 0.08
    assert report.verdict.startswith("No sign of copying")


def test_a_model_that_copies_is_caught_by_every_question_and_its_copies_come_first():
    report = examine(HALF_COPIES, TRAIN, HELDOUT)
    assert report.split.z > 3
    assert report.copy.z < -3
    assert report.near_copies.generated.low > report.near_copies.heldout.high
    assert report.near_copies.split.z > 3
    assert report.authentic.generated.high < report.authentic.heldout.low
    assert report.verdict.startswith("It copies")
    copies = set(range(400, 600))
    assert set(report.nearest.closest(100).tolist()) <= copies
    assert set(report.near_copies.indices[:150].tolist()) <= copies
    shown = report.nearest.closest(1)
    assert int(report.nearest.train_index[shown]) == int(shown) - 400  # beside the picture that it copies


def test_a_model_of_typical_pictures_is_told_from_one_that_copies():
    report = examine(shrunk(), TRAIN, HELDOUT)
    assert report.copy.z < -3  # as close to training as a copier
    assert abs(report.split.z) < 3
    assert "of training no more than held out" in report.near_copies.verdict
    assert report.verdict.startswith("No proof of copying, but too little variety")


def test_a_model_that_blurs_lies_far_from_everything():
    report = examine(HONEST + 3, TRAIN, HELDOUT)
    assert report.copy.z > 3
    assert report.verdict.startswith("No sign of copying")
    assert "farther" in report.verdict


@pytest.mark.long
def test_the_split_test_accuses_honest_models_as_often_as_it_says_also_narrow_ones():
    """z is standard normal over splits: here for a model that paints three pictures, 40 times each."""
    narrow = pictures(3, 50).repeat(40, 1) + 0.1 * torch.randn(120, WIDTH, generator=torch.Generator().manual_seed(6))
    real = pictures(120, 51)
    draw, found = torch.Generator().manual_seed(7), []
    for _ in range(300):
        order = torch.randperm(120, generator=draw)
        train, heldout = real[order[:80]], real[order[80:]]
        found.append(split_test(neighbours(narrow, train, heldout)).z)
    z = torch.tensor(found)
    assert abs(float(z.mean())) < 0.2
    assert float(z.std()) == pytest.approx(1, abs=0.15)


def test_c_t_is_that_of_the_published_code():
    """Golden values of data_copying_tests.py, github.com/casey-meehan/data-copying, at the same features and cells.

    Its arrays were flattened, as today's scipy wants them; its tau was 19 over the number of generated pictures.
    """
    middles = centres(TRAIN, 3).float()

    def c_t(generated: Tensor) -> float:
        cells = tuple(torch.cdist(part, middles).argmin(1) for part in (generated, TRAIN, HELDOUT))
        return copy_test(generated, TRAIN, HELDOUT, cells=cells).c_t

    assert c_t(HONEST) == pytest.approx(-0.44990276260455814, abs=1e-9)
    assert c_t(HALF_COPIES) == pytest.approx(-5.385830381908169, abs=1e-9)
    last = torch.cdist(HONEST, middles).argmin(1) == 2
    assert c_t(HONEST[~last | (last.cumsum(0) <= 5)]) == pytest.approx(
        -1.0278535990125608, abs=1e-9
    )  # one cell is not counted


def test_a_rank_test_counts_pairs_and_splits_ties():
    first, second = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 3.0])
    u = sum((x > y) + (x == y) / 2 for x in first.tolist() for y in second.tolist())
    assert mann_whitney(first, second) == pytest.approx((u - 2.5) / math.sqrt(6 * 6 / 12))
    assert mann_whitney(second, first) == pytest.approx((6 - u - 2.5) / math.sqrt(6 * 6 / 12))


def test_authenticity_is_that_of_its_definition():
    shares = authenticity(HALF_COPIES, TRAIN, HELDOUT)
    gaps = torch.cdist(TRAIN, TRAIN).fill_diagonal_(torch.inf).min(1).values
    distances, indices = torch.cdist(HALF_COPIES, TRAIN).min(1)
    assert shares.generated.value == pytest.approx(float((gaps[indices] < distances).float().mean()), abs=2 / 600)


def test_equal_pictures_are_twins_and_blocks_change_nothing(monkeypatch):
    features = torch.cat([HONEST[:50], HONEST[10:12], HONEST[10:11] + 1e-3])
    found = twins(features, 0.01)
    assert found.pairs.tolist() == [[10, 50], [11, 51], [10, 52], [50, 52]]
    assert found.distances[:2].tolist() == [0, 0]
    assert (found.count, found.pictures) == (4, 5)
    monkeypatch.setattr(blockwise, "BLOCK", 100)
    assert twins(features, 0.01).pairs.tolist() == found.pairs.tolist()
    assert (len(twins(features, 0.01, limit=1).pairs), twins(features, 0.01, limit=1).count) == (1, 4)
    assert twins(HONEST[:50], 0.01).count == 0


def test_four_seeds_of_a_prompt_make_the_interval_wider():
    found = neighbours(HALF_COPIES, TRAIN, HELDOUT)
    alone = near_copies(found).generated
    together = near_copies(found, torch.arange(600) // 4).generated
    assert alone.value == together.value
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: examine(HONEST, TRAIN, HELDOUT[:, :3]), "different encoders"),
        (lambda: near_copies(neighbours(HONEST, TRAIN, HELDOUT[:50])), "take 100 of them or a quantile of 0.02"),
        (lambda: copy_test(HONEST[:10], TRAIN, HELDOUT), "no cell holds 20"),
        (lambda: copy_test(HONEST, TRAIN, HELDOUT[:2]), "0 held-out pictures: use fewer cells"),
        (lambda: copy_test(HONEST, TRAIN, HELDOUT, num_cells=501), "501 cells"),
    ],
)
def test_what_cannot_be_examined_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
