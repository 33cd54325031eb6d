"""Targets and weights of training: each target's own formula, one weight in x0, noise levels evenly met."""

import pytest
import torch

from marmo.diffusion.denoiser import Parametrisation, Target
from marmo.diffusion.noise import COSINE, FLOW, SIGMA_CAP, STABLE_DIFFUSION, NoiseTable
from marmo.diffusion.training import evenly, flow_levels, lesson, levels, middling

TABLE = NoiseTable(STABLE_DIFFUSION)


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x0, noise = torch.randn(2, count, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return x0, noise


def wide(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


@pytest.mark.parametrize("target", ["eps", "v", "x0", "flow"])
def test_what_is_taught_is_what_sampling_believes(target: Target):
    """The target, read as the sampler reads an output, is the picture; what is seen is what the sampler shows."""
    row = Parametrisation(target, TABLE)
    x0, noise = batch(5)
    sigma = torch.tensor([0.03, 0.5, 1.0, 3.0, 14.0]).double()
    taught = lesson(row, x0, noise, sigma)
    x = x0 + wide(sigma.float()) * noise
    assert torch.allclose(taught.seen, wide(row(sigma).c_in) * x, atol=1e-6)
    assert torch.equal(taught.clock, row(sigma).c_noise)
    assert torch.allclose(row.to_x0(x, taught.target, sigma), x0, atol=2e-5)


def test_targets_are_the_papers():
    x0, noise = batch(3)
    sigma = torch.tensor([0.1, 1.0, 10.0]).double()
    alpha, beta = (wide(part.float()) for part in (1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()))
    assert torch.allclose(lesson(Parametrisation("eps", TABLE), x0, noise, sigma).target, noise, atol=1e-6)
    v = alpha * noise - beta * x0  # Salimans and Ho 2022, appendix D
    assert torch.allclose(lesson(Parametrisation("v", TABLE), x0, noise, sigma).target, v, atol=1e-6)
    flow = lesson(Parametrisation("flow", None), x0, noise, sigma)
    t = wide((sigma / (1 + sigma)).float())
    assert torch.allclose(flow.target, noise - x0, atol=1e-6)  # Liu et al. 2022, equation 1
    assert torch.allclose(flow.seen, (1 - t) * x0 + t * noise, atol=1e-6)


@pytest.mark.parametrize("target", ["v", "flow"])
def test_pure_noise_is_taught_without_loss_of_digits(target: Target):
    x0, noise = batch(2)
    sigma = torch.full((2,), SIGMA_CAP).double()
    taught = lesson(Parametrisation(target, NoiseTable(COSINE)), x0, noise, sigma)
    assert torch.allclose(taught.seen, noise, atol=1e-6)
    assert torch.allclose(taught.target, -x0 if target == "v" else noise - x0, atol=1e-6)


def test_every_target_weighs_an_error_of_x0_alike():
    """min(SNR, gamma) per squared error of x0, whatever the network says (Hang et al. 2023, section 3.4)."""
    x0, noise = batch(4)
    sigma = torch.tensor([0.2, 0.5, 2.0, 9.0]).double()
    x = x0 + wide(sigma.float()) * noise
    for target in ("eps", "v", "x0", "flow"):
        row = Parametrisation(target, TABLE)
        taught = lesson(row, x0, noise, sigma, min_snr=5.0)
        wrong = taught.target + 0.01
        error = (row.to_x0(x, wrong, sigma) - x0).square().mean((1, 2, 3))
        counted = taught.weights * (wrong - taught.target).square().mean((1, 2, 3))
        assert torch.allclose(counted, (sigma**-2).clamp(max=5).float() * error, rtol=2e-3), target


def test_without_gamma_all_count_the_same():
    x0, noise = batch(2)
    sigma = torch.tensor([0.1, 10.0]).double()
    assert lesson(Parametrisation("v", TABLE), x0, noise, sigma).weights.tolist() == [1, 1]


def test_levels_are_met_equally_often():
    shares = torch.tensor([evenly(position, seed=3) for position in range(10_000)])
    counts = torch.bincount((shares * 10).long(), minlength=10)
    assert (counts - 1000).abs().max() <= 2
    for first in (0, 777, 123_456_789):  # any batch of 32 has one in nearly every 32nd part
        few = torch.tensor([evenly(first + place, seed=3) for place in range(32)])
        assert len(set((few * 32).long().tolist())) > 20
        assert few.min() < 0.06 and few.max() > 0.94
    assert evenly(0, seed=1) != evenly(0, seed=2)
    sigmas = levels(TABLE, torch.tensor([0.0, 0.5, 0.9999999]))
    assert torch.equal(sigmas, TABLE.sigmas[[0, 500, 999]])


def test_middling_shares_are_logit_normal():
    shares = torch.tensor([middling(evenly(position, seed=3), 1.2) for position in range(4000)])
    logits = (shares / (1 - shares)).log()
    assert abs(logits.mean()) < 0.01 and abs(logits.std() - 1.2) < 0.01
    assert 0 < middling(0.0, 1.2) < 1e-3 and middling(0.5, 1.2) == 0.5 and 1 - 1e-3 < middling(1.0, 1.2) < 1


def test_a_flow_has_logit_normal_times():
    """Esser et al. 2024, section 3.1: half of the times between the quartiles of a logistic of a normal."""
    shares = (torch.arange(1000) + 0.5) / 1000
    sigma = flow_levels(shares)
    t = sigma / (1 + sigma)
    assert torch.allclose(t.logit().mean(), torch.zeros((), dtype=torch.float64), atol=1e-3)
    assert torch.allclose(t.logit().std(), torch.ones((), dtype=torch.float64), atol=0.01)
    shifted = flow_levels(shares, shift=3.0)
    assert torch.allclose(shifted / (1 + shifted), 3 * t / (1 + 2 * t))  # their equation 23
    table = NoiseTable(FLOW)
    times = table.sigmas / (1 + table.sigmas)
    assert torch.allclose(times, torch.linspace(0.001, 0.999, 1000, dtype=torch.float64))
