"""The numbers against peers on the same features: torchmetrics, prdc, scipy, and golden values of published code."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from marmo.evaluate.distances import frechet, kid, kid_subsets, moments, prdc
from marmo.evaluate.statistics import mean, wilson

pytestmark = pytest.mark.parity

SIZES = [(400, 300, 16), (700, 500, 64)]
"""Real pictures, generated ones, width."""

every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def features(n: int, m: int, width: int) -> tuple[Tensor, Tensor]:
    """Not round and not normal, as real features: other scales in every direction, cut at 0, far from the origin."""
    draw = torch.Generator().manual_seed(n)
    mix = torch.randn(width, width, generator=draw) * torch.linspace(0.1, 1, width)
    real = (torch.randn(n, width, generator=draw) @ mix).relu() + 1
    generated = (1.1 * torch.randn(m, width, generator=draw) @ mix + 0.1).relu() + 1
    return real, generated


def peer(metric: type, size: tuple[int, int, int], **options: int) -> tuple[float, ...]:
    real, generated = features(*size)

    class Same(nn.Identity):
        num_features = size[2]

    made = metric(feature=Same(), **options)
    made.update(real, real=True)
    made.update(generated, real=False)
    found = made.compute()
    return tuple(float(value) for value in (found if isinstance(found, tuple) else (found,)))


@every_size
def test_frechet_is_that_of_torchmetrics(size):
    fid = pytest.importorskip("torchmetrics.image.fid")
    (theirs,) = peer(fid.FrechetInceptionDistance, size)
    ours = frechet(*(moments(part) for part in features(*size)))
    print(f"relative error {abs(ours.value / theirs - 1):.1e}")
    assert ours.value == pytest.approx(theirs, rel=1e-4)


@every_size
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_kernel_distance_is_that_of_torchmetrics(size):
    """With subsets as large as the smaller set, the real ones cut to it: then nothing is left to chance."""
    found = pytest.importorskip("torchmetrics.image.kid")
    real, generated = features(*size)
    n = min(len(real), len(generated))
    made = found.KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=n)
    made.update(real[:n].double(), real=True)
    made.update(generated[:n].double(), real=False)
    theirs = float(made.compute()[0])
    ours = kid(real[:n], generated[:n]).value
    print(f"relative error {abs(ours / theirs - 1):.1e}")
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert kid_subsets(real[:n], generated[:n], subsets=1, size=n)[0] == pytest.approx(theirs, rel=1e-4)


@every_size
@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_and_coverage_are_those_of_prdc(size, k):
    theirs = pytest.importorskip("prdc").compute_prdc(*(part.numpy() for part in features(*size)), nearest_k=k)
    ours = prdc(*features(*size), k=k)
    assert 0.05 < theirs["coverage"] < 0.999  # it says something
    for name, value in theirs.items():
        assert getattr(ours, name).value == pytest.approx(value, rel=1e-4), name


def test_the_bootstrap_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    for ours, theirs in (("bca", "BCa"), ("percentile", "percentile")):
        found = mean(values, draws=20_000, method=ours)
        interval = stats.bootstrap(
            (values.numpy(),), np.mean, method=theirs, n_resamples=20_000, rng=np.random.default_rng(0)
        ).confidence_interval
        width = interval.high - interval.low
        assert found.low == pytest.approx(interval.low, abs=0.02 * width)
        assert found.high == pytest.approx(interval.high, abs=0.02 * width)


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 7), (81, 263)])
def test_wilson_is_that_of_scipy(hits, n):
    interval = pytest.importorskip("scipy.stats").binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((interval.low, interval.high), abs=1e-12)
