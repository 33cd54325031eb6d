"""Losses under noise that stays: the paper's, and the best that a linear filter can have."""

import pytest
import torch

from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.noise import DDPM, NoiseTable
from marmo.evaluate.denoising import Trial, eps_errors


def test_the_loss_is_the_papers():
    """Equation 14, with x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps and t counted from 0."""
    draw = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(3, 1, 4, 4, generator=draw), torch.randn(3, 1, 4, 4, generator=draw)
    alphas, t = DDPM.alphas(), torch.tensor([0, 500, 999])
    asked = []

    def network(x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        asked.append((x, clock))
        return 0.5 * x

    means = Parametrisation("eps", NoiseTable(DDPM))
    found = eps_errors(network, means, x0, eps, NoiseTable(DDPM).sigmas[t])
    a = alphas[t].float()[:, None, None, None]
    noisy = a.sqrt() * x0 + (1 - a).sqrt() * eps
    assert torch.allclose(asked[0][0], noisy, atol=1e-5) and asked[0][1].tolist() == pytest.approx([0, 500, 999])
    assert torch.allclose(found, (0.5 * noisy - eps).square().mean((1, 2, 3)), rtol=1e-4)


def test_the_baseline_is_the_best_linear_filter():
    """Of pictures that are normal, no denoiser is better; of others a network can be."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(16, 16, generator=draw) / 4
    pictures = (torch.randn(4096, 16, generator=draw) @ mix + 0.3).reshape(-1, 1, 4, 4)
    table = NoiseTable(DDPM)
    trial, means = Trial(pictures[:1024], table, seed=0), Parametrisation("eps", table)
    best = trial.gaussian(pictures)
    covariance = (mix.T @ mix).double()

    def exact(x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        sigma = float(table.sigma(clock[0].double()))
        rows = x.flatten(1).double() * (1 + sigma**2) ** 0.5 - 0.3
        x0 = rows @ torch.linalg.inv(covariance + sigma**2 * torch.eye(16)) @ covariance
        return ((rows - x0) / sigma).reshape(x.shape).float()

    assert torch.allclose(best, trial.losses(exact, means), rtol=0.03)
    assert (best < trial.losses(lambda x, t: torch.zeros_like(x), means)).all()
    assert torch.equal(trial.losses(exact, means), trial.losses(exact, means)), "its noise stays"
