"""The four scalars of every row: the targets they give, the inputs they show the network, and their inverse."""

import pytest
import torch

from marmo.diffusion.denoiser import Parametrisation, denoise
from marmo.diffusion.noise import DDPM, SIGMA_CAP, STABLE_DIFFUSION, NoiseTable

TABLE = NoiseTable(DDPM)
TARGETS = ["eps", "v", "x0", "flow", "edm"]
SIGMAS = torch.logspace(-1.5228787, 2.4771213, 25, dtype=torch.float64).float()  # 0.03 to 300


def parametrisation(target, **more):
    return Parametrisation(target, None if target in ("flow", "edm") else TABLE, **more)


def wide(values):
    return values[:, None, None, None]


@pytest.fixture(scope="module")
def sample():
    """Clean pictures, noise and what is seen of them, one row per sigma.  float64, but sigma."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, len(SIGMAS), 3, 4, 5, dtype=torch.float64, generator=generator)
    return x0, noise, x0 + wide(SIGMAS.double()) * noise


def expected(target, x0, noise):
    """The published target and network input in float64, in the coordinates of its own paper."""
    s = wide(SIGMAS.double())
    alpha, beta = 1 / (1 + s**2).sqrt(), s / (1 + s**2).sqrt()  # variance preserving: alpha^2 + beta^2 = 1
    t = s / (1 + s)  # rectified flow
    match target:
        case "eps":
            return noise, alpha * x0 + beta * noise
        case "v":
            return alpha * noise - beta * x0, alpha * x0 + beta * noise
        case "x0":
            return x0, alpha * x0 + beta * noise
        case "flow":
            return noise - x0, (1 - t) * x0 + t * noise


def close(ours, theirs, rel=1e-5):
    """Per row, to its largest absolute value."""
    assert ours.dtype == torch.float32
    scale = theirs.abs().amax(dim=(1, 2, 3))
    error = (ours.double() - theirs).abs().amax(dim=(1, 2, 3)) / scale
    assert error.max() <= rel, error


@pytest.mark.parametrize("target", ["eps", "v", "x0", "flow"])
def test_rows_give_the_papers_targets_and_inputs(target, sample):
    x0, noise, x = sample
    output, seen = expected(target, x0, noise)
    row = parametrisation(target)
    asked = []

    def network(value, clock):
        asked.append((value, clock))
        return output.float()

    clean = denoise(network, row, x.float(), SIGMAS)
    [(value, clock)] = asked
    close(value, seen)
    close(row.to_output(x.float(), x0.float(), SIGMAS), output)
    # eps at sigma 300 must find x0 in a number 300 times its size
    error = (clean.double() - x0).abs().amax(dim=(1, 2, 3)) / x.abs().amax(dim=(1, 2, 3))
    assert error.max() < 1e-6
    assert clock.shape == SIGMAS.shape
    assert clock.dtype == torch.float32


def test_clocks():
    whole = torch.tensor([0, 1, 499, 998, 999])
    for target in ("eps", "v", "x0"):
        row = parametrisation(target)(TABLE.sigmas[whole].float())
        assert torch.allclose(row.c_noise, whole.float(), atol=2e-4)
    assert torch.allclose(parametrisation("flow")(SIGMAS).c_noise, 1000 * SIGMAS / (1 + SIGMAS))
    assert torch.allclose(parametrisation("edm")(SIGMAS).c_noise, SIGMAS.log() / 4, atol=1e-7)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_row_is_karras_table_1(sigma_data):
    s, d = SIGMAS.double(), sigma_data
    row = parametrisation("edm", sigma_data=d)(SIGMAS)
    table = (
        1 / (s**2 + d**2).sqrt(),
        d**2 / (s**2 + d**2),
        s * d / (s**2 + d**2).sqrt(),
        s.log() / 4,
    )
    for ours, theirs in zip(row, table, strict=True):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_network_sees_and_predicts_unit_variance(sigma_data):
    """Karras et al. 2022, appendix B.6: what its row was chosen for."""
    generator = torch.Generator().manual_seed(0)
    x0 = sigma_data * torch.randn(len(SIGMAS), 1, 200, 200, generator=generator)
    x = x0 + wide(SIGMAS) * torch.randn(x0.shape, generator=generator)
    row = parametrisation("edm", sigma_data=sigma_data)
    seen = wide(row(SIGMAS).c_in) * x
    for values in (seen, row.to_output(x, x0, SIGMAS)):
        assert torch.allclose(values.std(dim=(1, 2, 3)), torch.ones(len(SIGMAS)), atol=0.02)


@pytest.mark.parametrize("target", TARGETS)
def test_to_output_and_to_x0_are_inverse(target, sample):
    x0, _, x = (part.float() for part in sample)
    row = parametrisation(target)
    back = row.to_x0(x, row.to_output(x, x0, SIGMAS), SIGMAS)
    error = (back - x0).abs().amax(dim=(1, 2, 3)) / x.abs().amax(dim=(1, 2, 3))
    assert error.max() < 1e-6


@pytest.mark.parametrize("target", ["flow", "v"])
def test_infinite_noise_is_only_a_large_sigma(target):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 4, 5, generator=generator)
    sigma = torch.full((2,), SIGMA_CAP)
    x = x0 + SIGMA_CAP * noise
    row = parametrisation(target)
    scalars = row(sigma)
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in scalars)
    assert torch.allclose(wide(scalars.c_in) * x, noise, rtol=1e-6)
    # at infinite noise flow's target is noise - x0 and v's is -x0: either way the output alone gives the picture
    output = noise - x0 if target == "flow" else -x0
    assert torch.allclose(row.to_x0(x, output, sigma), x0, atol=2e-6)
    assert scalars.c_noise.tolist() == ([1000, 1000] if target == "flow" else [999, 999])


def test_every_row_has_its_own_sigma_and_the_solver_stays_in_float32(sample):
    _, _, x = sample
    row = Parametrisation("v", NoiseTable(STABLE_DIFFUSION))

    def network(value, clock):
        return (value * (1 + wide(clock))).bfloat16()

    batch = denoise(network, row, x.float(), SIGMAS)
    singles = [denoise(network, row, x[i : i + 1].float(), SIGMAS[i : i + 1]) for i in range(len(SIGMAS))]
    assert batch.dtype == torch.float32
    assert batch.equal(torch.cat(singles))


def test_a_discrete_clock_needs_a_table():
    with pytest.raises(AssertionError, match="eps needs a table of noise levels"):
        Parametrisation("eps")(SIGMAS)
