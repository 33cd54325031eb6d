"""Brownian paths: torchsde's numbers to the last bit, one path whatever is asked, and the right distribution."""

import itertools
import math
import warnings

import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.diffusion.brownian import BrownianTree
from marmo.diffusion.noise import STABLE_DIFFUSION, NoiseTable
from marmo.diffusion.schedules import schedule
from marmo.diffusion.sources import TorchCpu

TABLE = NoiseTable(STABLE_DIFFUSION)
LOW, HIGH = 0.0291671582, 14.6146412


def twister(shape):
    return lambda seed: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tree(seed, shape=(3, 4), low=LOW, high=HIGH):
    return BrownianTree(twister(shape), seed, low, high)


def peer(seed, shape=(3, 4), low=LOW, high=HIGH):
    return torchsde.BrownianTree(t0=low, w0=torch.zeros(shape), t1=high, entropy=seed)


@pytest.mark.parity
@pytest.mark.parametrize("seed", [0, 1234567, 2**32 - 1, 2**63 - 1])
def test_increments_are_torchsdes_to_the_last_bit(seed):
    ours, theirs = tree(seed), peer(seed)
    places = [LOW, 0.03, 0.1, 0.6951495409, 1.0, 3.141592, 7.3219, 7.321905, 14.0, HIGH]
    for low, high in itertools.combinations(places, 2):
        assert ours(low, high).equal(theirs(low, high)), (low, high)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["karras", "exponential", "normal"])
def test_a_run_draws_what_k_diffusions_noise_sampler_draws(name):
    """Its sampler is torchsde's tree over the levels, the sign turned, divided by the root of the step."""
    sigmas, seeds = schedule(name, TABLE, 12), [5, 6]
    path = TorchCpu(seeds).path((4, 3, 5), sigmas)
    peers = [peer(seed, (4, 3, 5), sigmas[-2], sigmas[0]) for seed in seeds]
    for s, t in itertools.pairwise(sigmas[:-1]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a float32 end of the path may lie outside its rounded self
            theirs = torch.stack([each(t, s) for each in peers]) * -1 / (t - s).abs().sqrt()
        assert path(s, t).equal(theirs)


@pytest.mark.long
@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(LOW, HIGH), min_size=3, max_size=6, unique=True), st.integers(0, 2**32))
def test_increments_add_up_in_any_order_of_questions(places, seed):
    first, *inner, last = sorted(places)
    ours, fresh = tree(seed), tree(seed)
    steps = list(itertools.pairwise([first, *inner, last]))
    parts = {step: ours(*step) for step in reversed(steps)}
    assert all(part.equal(fresh(*step)) for step, part in parts.items())
    assert torch.allclose(sum(parts.values()), fresh(first, last), atol=2e-5)


def test_increments_are_independent_and_have_the_variance_of_their_length():
    path = TorchCpu([3]).path((4, 96, 96), torch.tensor([10.0, 1.0]))
    levels = [10.0, 7.3, 4.1, 2.0, 1.0]
    steps = [path(torch.tensor(s), torch.tensor(t)).flatten() for s, t in itertools.pairwise(levels)]
    correlation = torch.corrcoef(torch.stack(steps))
    assert torch.allclose(torch.stack([step.std() for step in steps]), torch.ones(4), atol=0.02)
    assert (correlation - torch.eye(4)).abs().max() < 0.02
    whole = tree(3, (4, 96, 96), 1.0, 10.0)(1.0, 10.0)
    assert whole.std().item() == pytest.approx(math.sqrt(9), rel=0.02)


def test_what_lies_outside_the_path_is_cut_off():
    ours = tree(7)
    assert ours(0.0, 20.0).equal(ours(LOW, HIGH))
    assert ours(0.0, 0.01).equal(torch.zeros(3, 4))
    assert ours(2.0, 2.0000001).equal(torch.zeros(3, 4))


def test_a_path_reaches_up_to_infinite_noise():
    ours = tree(7, low=0.03, high=1e8)
    assert ours(14.6, 1e8).isfinite().all()
    assert torch.allclose(ours(0.03, 1.0) + ours(1.0, 14.6), ours(0.03, 14.6), atol=1e-4)
