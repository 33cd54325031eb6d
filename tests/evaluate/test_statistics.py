"""Intervals: closed forms, what they cover on simulated data, and what happens when prompts are taken for pictures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marmo.evaluate.statistics import (
    Estimate,
    average,
    bootstrap,
    cluster_numbers,
    difference,
    half_jackknife,
    mean,
    share,
    wilson,
)

CHANCE = 0.03
"""Three standard errors of a coverage of 95 % that is counted in 500 experiments."""


def prompts(draw: torch.Generator, count: int = 50, seeds: int = 4) -> tuple[Tensor, Tensor, float]:
    """Right and wrong answers that depend on the prompt, the prompt's number, and the true share."""
    hard = torch.rand(count, 1, generator=draw) ** 2  # mean 1/3
    hits = torch.rand(count, seeds, generator=draw) < hard
    return hits.flatten(), torch.arange(count).repeat_interleave(seeds), 1 / 3


def covered(experiments: list[tuple[Estimate, float]]) -> float:
    return sum(estimate.covers(truth) for estimate, truth in experiments) / len(experiments)


def test_wilson_is_the_published_example():
    """Newcombe (1998), table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((0.8389, 1), abs=5e-5)


def test_share_covers_95_percent_of_the_time_although_the_seeds_of_a_prompt_agree():
    draw, found = torch.Generator().manual_seed(0), []
    naive = []
    for _ in range(500):
        hits, clusters, truth = prompts(draw)
        found.append((share(hits, clusters), truth))
        naive.append((share(hits), truth))
    assert covered(found) == pytest.approx(0.95, abs=CHANCE)
    assert covered(naive) < 0.88  # so the clusters do something


@pytest.mark.long
def test_bootstrap_covers_95_percent_of_the_time_with_and_without_clusters():
    draw = torch.Generator().manual_seed(1)
    plain, clustered, naive = [], [], []
    for number in range(500):
        values = torch.randn(60, generator=draw, dtype=torch.float64)
        plain.append((mean(values, seed=number, draws=400), 0.0))
        together = torch.randn(60, 1, generator=draw, dtype=torch.float64).repeat(1, 4)
        scores = (together + torch.randn(60, 4, generator=draw, dtype=torch.float64)).flatten()
        labels = torch.arange(60).repeat_interleave(4)
        clustered.append((mean(scores, labels, seed=number, draws=400), 0.0))
        naive.append((mean(scores, seed=number, draws=400), 0.0))
    assert covered(plain) == pytest.approx(0.95, abs=CHANCE)
    assert covered(clustered) == pytest.approx(0.95, abs=CHANCE)
    assert covered(naive) < 0.8


@pytest.mark.long
def test_bca_reaches_further_into_the_long_tail_than_percentiles():
    """The mean of 25 log-normal values: percentiles stop short of it above far more often than 2.5 % of the time."""
    draw, missed = torch.Generator().manual_seed(2), {"bca": 0, "percentile": 0}
    for number in range(500):
        values = torch.randn(25, generator=draw, dtype=torch.float64).exp()
        for method in missed:
            missed[method] += mean(values, seed=number, draws=400, method=method).high < math.exp(0.5)
    assert missed["percentile"] > 0.1 * 500
    assert missed["bca"] < 0.85 * missed["percentile"]


def test_a_paired_difference_sees_what_two_intervals_do_not():
    draw = torch.Generator().manual_seed(3)
    hardness = torch.randn(200, generator=draw)
    first = hardness + 0.1 * torch.randn(200, generator=draw) + 0.05
    second = hardness + 0.1 * torch.randn(200, generator=draw)
    assert mean(first).covers(mean(second).value)
    apart = difference(first, second)
    assert not apart.covers(0)
    assert apart.covers(0.05)
    assert difference(second, first).value == pytest.approx(-apart.value)


def test_bootstrap_takes_any_weighted_statistic():
    """The median, whose standard error on a normal is 1.2533 sigma / sqrt(n)."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(4), dtype=torch.float64).sort().values

    def median(weights: Tensor) -> Tensor:
        return values[(weights.cumsum(1) < weights.sum(1, keepdim=True) / 2).sum(1)]

    found = bootstrap(median, 400, method="percentile")
    assert found.value == pytest.approx(float(values.median()), abs=0.02)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(1.2533 / 20, rel=0.3)


@pytest.mark.long
def test_the_half_jackknife_gives_the_standard_error_of_a_mean():
    values = torch.randn(300, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    error = half_jackknife(lambda chosen: float(values[chosen].mean()), 300, halves=2000)
    assert error == pytest.approx(float(values.std()) / math.sqrt(300), rel=0.1)
    twice = values.repeat_interleave(2)
    labels = torch.arange(300).repeat_interleave(2)
    clustered = half_jackknife(lambda chosen: float(twice[chosen].mean()), 600, labels, halves=2000)
    assert clustered == pytest.approx(error, rel=0.1)  # saying everything twice teaches nothing


def test_an_average_of_shares_covers_95_percent_of_the_time_also_at_the_ends():
    draw, truths, found = torch.Generator().manual_seed(6), (0.02, 0.4, 0.99), []
    for _ in range(500):
        parts = [share(torch.rand(60, generator=draw) < truth) for truth in truths]
        found.append((average(parts), sum(truths) / 3))
    assert covered(found) >= 0.95 - CHANCE
    perfect = average([share(torch.ones(30)) for _ in range(6)])
    assert perfect.value == perfect.high == 1
    assert 0.9 < perfect.low < 0.98  # where the bootstrap would claim certainty


def test_a_draw_is_a_function_of_its_seed():
    values = torch.arange(30.0)
    assert mean(values, seed=1) == mean(values, seed=1) != mean(values, seed=2)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40), st.integers(1, 5))
def test_a_share_lies_in_its_interval_and_the_interval_in_0_to_1(values, size):
    clusters = torch.arange(len(values)) // size
    for found in (share(torch.tensor(values)), share(torch.tensor(values), clusters)):
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0


def test_an_estimate_prints_the_digits_that_it_knows():
    assert str(Estimate(0.43123, 0.40210, 0.46034, 553)) == "0.431 [0.402, 0.460] n=553"
    assert str(Estimate(1234.56, 1200.1, 1270.9, 10)) == "1235 [1200, 1271] n=10"
    assert str(Estimate(2.0, 2.0, 2.0, 1)) == "2.0 [2.0, 2.0] n=1"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean(torch.tensor([])), "finite values"),
        (lambda: mean(torch.tensor([1.0, math.nan])), "finite values"),
        (lambda: share(torch.tensor([2.0])), "from 0 to 1"),
        (lambda: mean(torch.ones(3), torch.arange(2)), "3 values need 3"),
        (lambda: difference(torch.ones(3), torch.ones(2)), "same prompts"),
        (lambda: half_jackknife(lambda chosen: 0.0, 3), "at least 4"),
        (lambda: average([]), "at least one"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_names_become_clusters():
    assert cluster_numbers(["fox", "cat", "fox"]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_fewest_values_have_an_interval_that_holds_them(n: int) -> None:
    values = torch.arange(n).double()
    for method in ("bca", "percentile"):
        estimate = mean(values, method=method)
        assert estimate.low <= estimate.value <= estimate.high
    alone = mean(values, torch.zeros(n))
    assert alone.low == alone.value == alone.high, "one cluster says nothing of others"
