"""How exact each solver is, without a peer: slopes of the error, polynomials that it must integrate, Brownian paths."""

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch

from marmo.diffusion.noise import STABLE_DIFFUSION, NoiseTable
from marmo.diffusion.samplers import BROWNIAN, DETERMINISTIC, NOISY, Prediction, drive, run, sampling
from marmo.diffusion.sources import TorchCpu
from marmo.solver_names import ETA, SamplerName

TABLE = NoiseTable(STABLE_DIFFUSION)
SHAPE = (2, 3, 4, 4)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MEAN, WIDTH = randn(*SHAPE, seed=1), 0.5 + randn(*SHAPE, seed=2).abs()


def gaussian(query):
    """The exact denoiser of a normal distribution."""
    return Prediction((WIDTH**2 * query.x + query.sigma**2 * MEAN) / (query.sigma**2 + WIDTH**2))


def flow_of_gaussian(x, high):
    return MEAN + (x - MEAN) * (WIDTH**2 / (WIDTH**2 + high**2)).sqrt()


def falling(steps, high=10.0, rho=7.0):
    """Karras et al.'s levels down to 0 itself, so that the last step vanishes as well."""
    return high * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps) ** rho


def no_noise(s, t):
    raise AssertionError("a deterministic sampler asked for noise")


# Multistep solvers begin with a step of first order, so 2 is the most that a whole run shows; UniPC's corrector makes
# that step again.  Samplers with fresh noise at eta 0.
ORDERS = {
    **dict.fromkeys(["euler", "euler_ancestral", "ddim", "ddpm", "tcd", "euler_cfg_pp", "euler_ancestral_cfg_pp"], 1),
    **dict.fromkeys(["heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"], 2),
    **dict.fromkeys(["dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"], 2),
    **dict.fromkeys(["lms", "plms", "deis"], 2),
    "unipc_bh2": 3,
    "unipc": 4,
}
"""Of a whole run on the flow of a normal distribution."""


@pytest.mark.long
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    x = MEAN + 10 * randn(*SHAPE, seed=3)
    exact = flow_of_gaussian(x, 10.0)
    finals = [run(sampling(name, x, falling(n), no_noise, 0.0, TABLE), gaussian) for n in (80, 160, 320)]
    errors = [(final - exact).abs().max().item() for final in finals]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes[-1] == pytest.approx(ORDERS[name], abs=0.5), errors
    assert min(slopes) > ORDERS[name] - 0.3, errors
    assert errors[-1] < (0.05 if ORDERS[name] == 1 else 1e-3)


def test_other_samplers_are_refused():
    with pytest.raises(ValueError, match="there is no sampler 'dpm_fast'"):
        sampling("dpm_fast", torch.zeros(1, 1, 1, 1), torch.zeros(1), no_noise, None)


def test_tcd_needs_a_models_clock():
    with pytest.raises(ValueError, match="tcd counts in the model's own time, and this model has no table of it"):
        sampling("tcd", torch.zeros(1, 1, 1, 1), torch.zeros(1), no_noise, 0.3)


def test_every_sampler_has_an_order_or_is_proven_by_its_distribution():
    assert ORDERS.keys() == {*get_args(SamplerName)} - NOISY.keys()
    assert DETERMINISTIC.keys() == {*get_args(SamplerName)} - ETA.keys() - NOISY.keys()


# A solver that fits a polynomial is exact where that is the truth, once it has enough values
POLYNOMIALS = {
    "heun": ("slope", lambda sigma: sigma, 1, 0),
    "plms": ("slope", lambda sigma: sigma, 3, 3),  # in the number of the step, which is sigma where steps are even
    "lms": ("slope", lambda sigma: sigma, 3, 3),
    "deis": ("slope", torch.log, 2, 2),
    "dpmpp_2m_sde_heun": ("x0", torch.log, 1, 1),
}
"""Sampler -> what is a polynomial, in what, of which degree, and the first step that is exact."""


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_solvers_integrate_their_polynomials_exactly(name):
    what, coordinate, degree, first = POLYNOMIALS[name]
    sigmas = torch.linspace(9, 1, 9, dtype=torch.float64)
    if name != "plms":
        sigmas = sigmas + 0.3 * torch.arange(9).sin()

    def known(sigma):
        return sum(c * coordinate(sigma) ** power for power, c in enumerate([0.7, -0.3, 0.2, -0.05][: degree + 1]))

    def answer(query):
        value = known(query.sigma)
        return Prediction(query.x - query.sigma * value if what == "slope" else value + 0 * query.x)

    def exact(x, s, t):
        """A step of dx / dsigma = slope = (x - x0) / sigma, by quadrature."""
        level = torch.linspace(float(s), float(t), 8001, dtype=torch.float64)
        if what == "slope":
            return x + torch.trapezoid(known(level), level)
        return t / s * x - t * torch.trapezoid(known(level) / level**2, level)

    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    driven, states = drive(sampling(name, x, sigmas, no_noise, 0.0), answer), {}
    try:
        while True:
            query, _ = next(driven)
            states.setdefault(query.index, query.x)
    except StopIteration as end:
        states[8] = end.value
    last = 6 if name == "deis" else 8  # its order falls at the end
    errors = [states[i + 1] - exact(states[i], sigmas[i], sigmas[i + 1]) for i in range(last)]
    assert max(error.abs() for error in errors[first:]) < 1e-7
    assert all(error.abs() > 1e-4 for error in errors[:first])


# Brownian paths


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(BROWNIAN))
def test_on_one_path_finer_steps_come_closer(name):
    """Strong convergence: the same noise, seen at more places, gives nearly the same picture."""
    ends = torch.tensor([10.0, 0.1])
    source = TorchCpu([3, 4])

    def final(steps):
        sigmas = torch.cat([torch.logspace(1, -1, steps + 1, dtype=torch.float64), torch.zeros(1)])
        path = source.path(SHAPE[1:], ends)
        return run(sampling(name, MEAN + 10 * randn(*SHAPE, seed=3), sigmas, path, 1.0), gaussian)

    exact = final(96)
    errors = [(final(steps) - exact).square().mean().sqrt().item() for steps in (8, 16, 32)]
    assert all(coarse / fine > 1.6 for coarse, fine in pairwise(errors)), errors
    other = TorchCpu([5, 6]).path(SHAPE[1:], ends)
    sigmas = torch.cat([torch.logspace(1, -1, 33, dtype=torch.float64), torch.zeros(1)])
    elsewhere = run(sampling(name, MEAN + 10 * randn(*SHAPE, seed=3), sigmas, other, 1.0), gaussian)
    assert (elsewhere - exact).square().mean().sqrt() > 5 * errors[-1]
