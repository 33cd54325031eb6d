"""Distances of sets: closed forms, invariances, and what the intervals cover."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marmo.evaluate import distances, neighbours
from marmo.evaluate.distances import (
    Moments,
    cmmd,
    cubic,
    frechet,
    frechet_estimate,
    kid,
    kid_subsets,
    moments,
    prdc,
    sliced,
    streamed,
)

OF_TWO = {
    "frechet": lambda x, y: frechet(moments(x), moments(y)).value,
    "kid": lambda x, y: kid(x, y).value,
    "cmmd": cmmd,
    "sliced": sliced,
    "prdc": lambda x, y: [part.value for part in (prdc(x, y).precision, prdc(x, y).coverage, prdc(x, y).density)],
}
every_distance = pytest.mark.parametrize("distance", OF_TWO.values(), ids=OF_TWO)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


# Moments and the Frechet distance


@pytest.mark.long
@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.floats(-1e6, 1e6))
def test_moments_of_batches_are_the_moments_of_all(sizes, shift):
    features = normal(sum(sizes), 3) + shift
    whole, parts = moments(features), streamed(features.split(sizes))
    assert parts.n == len(features)
    torch.testing.assert_close(parts.mean, features.mean(0))
    torch.testing.assert_close(parts.covariance, whole.covariance, atol=1e-8, rtol=1e-8)
    if len(features) > 1:
        torch.testing.assert_close(whole.covariance, torch.cov(features.T).reshape(3, 3), atol=1e-8, rtol=1e-8)


def test_two_gaussians_have_the_distance_of_the_formula():
    """Commuting covariances: |m1 - m2|^2 + sum of (sqrt(a) - sqrt(b))^2, in any common basis."""
    a, b = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    turn, shift = rotation(3, 1), torch.tensor([3.0, 4.0, 0.0]).double()
    first = Moments(10, torch.zeros(3).double(), turn @ a.diag() @ turn.T)
    second = Moments(10, shift, turn @ b.diag() @ turn.T)
    assert frechet(first, second).value == pytest.approx(25 + 1 + 4, rel=1e-12)


def test_covariances_that_do_not_commute_have_the_closed_form_of_two_dimensions():
    """tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)) for matrices of 2 by 2."""
    a, b = (moments(normal(9, 2, seed=seed)).covariance for seed in (1, 2))
    product = a @ b
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    zero = torch.zeros(2).double()
    expected = float(a.trace() + b.trace()) - 2 * root
    assert frechet(Moments(9, zero, a), Moments(9, zero, b)).value == pytest.approx(expected, rel=1e-10)


def test_singular_covariances_are_exact():
    """Two flat sets in different planes share nothing: the traces are left; a set has no distance to itself."""
    zero, axes = torch.zeros(50).double(), torch.arange(50)
    first, second = (Moments(20, zero, (axes % 2 == side).double().diag()) for side in (0, 1))
    assert frechet(first, second).value == pytest.approx(50, abs=1e-9)
    few = moments(normal(10, 200))
    assert frechet(few, few).value == pytest.approx(0, abs=1e-9)


def test_too_few_pictures_are_said_to_be_too_few():
    few = frechet(moments(normal(10, 16)), moments(normal(99, 16)))
    assert not few.meaningful
    assert "not meaningful: 10 pictures for 16 numbers" in str(few)
    enough = frechet(moments(normal(20, 16)), moments(normal(99, 16)))
    assert enough.meaningful
    assert "meaningful" not in str(enough)


@pytest.mark.long
def test_the_interval_of_a_frechet_distance_covers_what_so_many_pictures_give_on_average():
    real = moments(normal(4000, 8))
    values = [frechet_estimate(real, 0.2 + normal(150, 8, seed=seed), seed=seed) for seed in range(1, 121)]
    average = sum(estimate.value for estimate in values) / len(values)
    assert sum(estimate.covers(average) for estimate in values) / len(values) == pytest.approx(0.95, abs=0.06)
    assert values[0].value == pytest.approx(frechet(real, moments(0.2 + normal(150, 8, seed=1))).value)


# Kernel distances


def test_the_kernel_distance_is_the_double_sum_of_its_definition():
    x, y = normal(7, 4), normal(5, 4, seed=1) + 0.3
    same = sum(float(cubic(x, x)[i, j]) for i in range(7) for j in range(7) if i != j) / 42
    other = sum(float(cubic(y, y)[i, j]) for i in range(5) for j in range(5) if i != j) / 20
    assert kid(x, y).value == pytest.approx(same + other - 2 * float(cubic(x, y).mean()), rel=1e-12)


@pytest.mark.long
def test_the_kernel_distance_has_no_bias():
    """Two sets of one distribution have distance 0 on average, from 20 pictures as from 200."""
    for n in (20, 200):
        values = torch.tensor([kid(normal(n, 3, seed=2 * i), normal(n, 3, seed=2 * i + 1)).value for i in range(200)])
        assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(200)


def expected_kernel(a: Tensor, b: Tensor) -> float:
    """The mean of KID's kernel over x ~ N(a, 1) and y ~ N(b, 1), independent, from the moments of x . y."""
    d, dot = len(a), float(a @ b)
    first, second = float(a @ a), float(b @ b)
    square = d + first + second + dot**2
    cube = dot**3 + 3 * dot * second + 3 * dot * (first + d + 2)
    return cube / d**3 + 3 * square / d**2 + 3 * dot / d + 1


@pytest.mark.long
@pytest.mark.parametrize("seeds", [1, 4])
def test_the_interval_of_the_kernel_distance_covers_the_truth(seeds):
    """With four pictures of each prompt as with one."""
    zero, shift = torch.zeros(3).double(), torch.full((3,), 0.5).double()
    truth = expected_kernel(zero, zero) + expected_kernel(shift, shift) - 2 * expected_kernel(zero, shift)
    labels, covered = torch.arange(60).repeat_interleave(seeds), 0
    for seed in range(1, 121):
        about = normal(60, 1, 3, seed=seed).expand(60, seeds, 3)
        generated = 0.5 + 0.9 * about + math.sqrt(0.19) * normal(60, seeds, 3, seed=-seed)
        covered += kid(normal(200, 3, seed=1000 + seed), generated.reshape(-1, 3), labels).covers(truth)
    assert covered / 120 == pytest.approx(0.95, abs=0.06)


def test_subsets_surround_the_whole_and_are_a_function_of_the_seed():
    x, y = normal(300, 6), 0.3 + normal(260, 6, seed=1)
    middle, spread = kid_subsets(x, y, subsets=60, size=100)
    assert middle == pytest.approx(kid(x, y).value, abs=3 * spread / math.sqrt(60))
    assert (middle, spread) == kid_subsets(x, y, subsets=60, size=100)
    assert kid_subsets(x, y, subsets=2, size=260, seed=1)[1] < spread


def test_cmmd_is_the_formula_on_unit_embeddings():
    x, y = normal(6, 4), normal(5, 4, seed=1)
    u, v = (part / part.norm(dim=1, keepdim=True) for part in (x, y))

    def kernel(a: Tensor, b: Tensor) -> float:
        return float(torch.exp(-torch.cdist(a, b).square() / 200).mean())

    assert cmmd(x, y) == pytest.approx(1000 * (kernel(u, u) + kernel(v, v) - 2 * kernel(u, v)), rel=1e-9)
    assert cmmd(x, 7 * x) == pytest.approx(0, abs=1e-9)


# The sliced distance


def test_the_sliced_distance_of_a_shift_is_three_times_its_square():
    """The mean of a shift along random lines is |shift|^2 / D, whatever the sets are."""
    x = normal(40, 8)
    shift = torch.tensor([3.0, 4.0, 0, 0, 0, 0, 0, 0]).double()
    assert sliced(x, x + shift, directions=20_000) == pytest.approx(3 * 25, rel=0.03)


def test_sets_of_different_sizes_are_matched_exactly():
    """Everything three times over is the same distribution."""
    x, y = normal(14, 3), normal(10, 3, seed=1)
    assert sliced(x, y.repeat(3, 1)) == pytest.approx(sliced(x, y), rel=1e-9)
    assert sliced(x, x.repeat(3, 1)) == pytest.approx(0, abs=1e-12)


@pytest.mark.long
def test_the_sliced_distance_sees_what_two_moments_do_not():
    signs = normal(3000, 4).sign()
    bell = normal(3000, 4, seed=1)
    bell = (bell - bell.mean(0)) / bell.std(0)
    alike, apart = normal(3000, 4, seed=2), signs - signs.mean(0)
    assert sliced(bell, apart) > 10 * sliced(bell, alike)


# Precision, recall, density, coverage


def test_quality_and_variety_come_apart():
    """Half the modes in full quality; then all modes and as much noise."""
    real = torch.cat([normal(200, 2), normal(200, 2, seed=1) + 50])
    half = prdc(real, normal(400, 2, seed=2))
    assert half.precision.value > 0.95
    assert half.coverage.value < 0.55
    assert half.recall.value < 0.55
    noisy = prdc(real, torch.cat([normal(200, 2, seed=3), normal(200, 2, seed=4) + 50, normal(400, 2, seed=5) + 500]))
    assert noisy.precision.value == pytest.approx(0.5, abs=0.03)
    assert noisy.coverage.value > 0.9


def test_a_set_covers_itself():
    x = normal(60, 4)
    itself = prdc(x, x)
    assert (itself.precision.value, itself.recall.value, itself.coverage.value) == (1, 1, 1)
    assert itself.density.value == pytest.approx(1, abs=1e-12)  # `k` balls, its own among them


# What holds for all of them


@every_distance
def test_rotation_shift_and_order_change_nothing(distance):
    x, y = normal(40, 6), 0.5 + normal(30, 6, seed=1)
    turn, order = rotation(6, 2), torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert distance(x[order], y) == pytest.approx(distance(x, y), rel=1e-9)
    if distance is not sliced:  # its lines are drawn in the coordinates
        assert distance(x @ turn, y @ turn) == pytest.approx(distance(x, y), rel=1e-9)
    else:
        assert distance(x @ turn, y @ turn) == pytest.approx(distance(x, y), rel=0.2)


@pytest.mark.parametrize("name", ["frechet", "kid", "cmmd", "sliced"])
def test_distances_are_symmetric(name):
    x, y = normal(40, 6), 0.5 + normal(30, 6, seed=1)
    assert OF_TWO[name](y, x) == pytest.approx(OF_TWO[name](x, y), rel=1e-9)


@pytest.mark.parametrize("name", ["frechet", "cmmd", "sliced"])
def test_a_set_has_no_distance_to_itself(name):
    assert OF_TWO[name](normal(40, 6), normal(40, 6)) == pytest.approx(0, abs=1e-9)


@every_distance
def test_blocks_change_nothing(distance, monkeypatch):
    x, y = normal(40, 6), 0.5 + normal(30, 6, seed=1)
    whole = distance(x, y)
    monkeypatch.setattr(distances, "BLOCK", 100)
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    assert distance(x, y) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: moments(torch.ones(3)), "matrix"),
        (lambda: moments(torch.full((3, 2), math.nan)), "the encoder failed"),
        (lambda: streamed([]), "no features"),
        (lambda: frechet(moments(normal(9, 2)), moments(normal(9, 3))), "different encoders"),
        (lambda: kid(normal(9, 2), normal(9, 3)), "different encoders"),
        (lambda: kid(normal(2, 2), normal(9, 2)), "3 pictures"),
        (lambda: kid(normal(9, 2), normal(9, 2), torch.zeros(9)), "3 clusters"),
        (lambda: kid_subsets(normal(9, 2), normal(9, 2)), "subsets of 1000"),
        (lambda: prdc(normal(4, 2), normal(9, 2)), "5 nearest neighbours"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
