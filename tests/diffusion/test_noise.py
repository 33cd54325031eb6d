"""Tables of noise levels against 60-digit arithmetic and diffusers."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marmo.diffusion.noise import COSINE, DDPM, STABLE_DIFFUSION, Betas, NoiseTable

TUTORIAL = Betas(kind="linear", start=1e-4, end=0.02, num_levels=300)
LDM_VQ = Betas(kind="scaled_linear", start=0.0015, end=0.0195)
COSINE_300 = Betas(kind="cosine", start=0.0, end=0.999, num_levels=300)

# betas, product of 1 - beta over all levels, largest and smallest sigma, first level whose product is below a half;
# computed from the formulae with 60 decimal digits
PUBLISHED = [
    (TUTORIAL, 4.80584289443e-2, 4.45061842676, 1.00005000375e-2, 143),
    (DDPM, 4.03582976538e-5, 157.407280810, 1.00005000375e-2, 259),
    (STABLE_DIFFUSION, 4.66009851308e-3, 14.6146412293, 2.91671581517e-2, 354),
    (LDM_VQ, 1.42303975192e-4, 83.8224944730, 3.87589135564e-2, 255),
    (COSINE, 2.42876690703e-9, 20291.1696100, 6.42541277113e-3, 496),
    (COSINE_300, 2.69860780963e-8, 6087.37571954, 1.25108262924e-2, 148),
]
ALL_BETAS = [row[0] for row in PUBLISHED]


@cache
def table_of(betas: Betas) -> NoiseTable:
    return NoiseTable(betas)


SD = table_of(STABLE_DIFFUSION)


def products(table):
    return 1 / (1 + table.sigmas**2)


@pytest.mark.parametrize(("betas", "product", "high", "low", "half"), PUBLISHED)
def test_tables_are_the_published_ones(betas, product, high, low, half):
    table = table_of(betas)
    assert products(table)[-1].item() == pytest.approx(product, rel=1e-9)
    assert table.sigmas[-1].item() == pytest.approx(high, rel=1e-9)
    assert table.sigmas[0].item() == pytest.approx(low, rel=1e-9)
    assert int((products(table) < 0.5).nonzero()[0]) == half


def test_the_tutorials_300_levels_leave_a_fifth_of_the_signal():
    assert products(table_of(TUTORIAL))[-1].sqrt().item() == pytest.approx(0.219, abs=5e-4)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("betas", "name"), [(DDPM, "linear"), (STABLE_DIFFUSION, "scaled_linear"), (COSINE, "squaredcos_cap_v2")]
)
def test_betas_equal_diffusers(betas, name):
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(beta_start=betas.start or 1e-4, beta_end=betas.end, beta_schedule=name)
    assert torch.allclose(betas.values().float(), peer.betas, rtol=1e-6, atol=1e-9)
    # their product of a thousand float32 factors is only so exact
    assert torch.allclose(products(table_of(betas)).float(), peer.alphas_cumprod, rtol=2e-4, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("betas", ALL_BETAS)
@given(share=st.floats(0, 1))
def test_time_and_sigma_are_inverse(betas, share):
    table = table_of(betas)
    t = torch.tensor(share * (len(table.sigmas) - 1), dtype=torch.float64)
    sigma = table.sigma(t)
    assert table.sigmas[0] * 0.999999 <= sigma <= table.sigmas[-1] * 1.000001
    assert table.time(sigma).item() == pytest.approx(t.item(), abs=1e-8)
    assert table.sigma(table.time(sigma)).item() == pytest.approx(sigma.item(), rel=1e-12)


def test_levels_lie_on_whole_times_and_between_them_the_logarithm_is_even():
    whole = torch.arange(1000)
    assert torch.allclose(SD.time(SD.sigmas), whole.double(), atol=1e-9)
    assert torch.allclose(SD.sigma(whole), SD.sigmas, rtol=1e-14)
    halves = SD.sigma(whole[:-1] + 0.5)
    assert torch.allclose(halves, (SD.sigmas[:-1] * SD.sigmas[1:]).sqrt(), rtol=1e-12)


def test_noise_outside_the_table_has_the_time_of_its_end():
    outside = torch.tensor([0.0, 1e-6, 0.029, 14.7, 1e8, float("inf")])
    assert SD.time(outside).tolist() == [0, 0, 0, 999, 999, 999]
    assert SD.sigma(torch.tensor([-3.0, 2000.0])).tolist() == [SD.sigma(torch.tensor(t)).item() for t in (0, 999)]
