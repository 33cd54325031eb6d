"""Noise levels: tables against 60-digit arithmetic, schedules against their peers, sources against numbers."""

from functools import cache
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import StableDiffusionImg2ImgPipeline
from hypothesis import given
from hypothesis import strategies as st

from marmo.diffusion.noise import (
    COSINE,
    DDPM,
    NOISE_SOURCES,
    SCHEDULES,
    STABLE_DIFFUSION,
    Betas,
    NoiseTable,
    TorchCpu,
    last_part,
    schedule,
)
from marmo.diffusion.samplers import Prediction, run, sampling
from marmo.request import ETA, NoiseSourceName, SamplerName, ScheduleName

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
PEER_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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


@pytest.mark.parametrize(
    ("betas", "name"), [(DDPM, "linear"), (STABLE_DIFFUSION, "scaled_linear"), (COSINE, "squaredcos_cap_v2")]
)
def test_betas_equal_diffusers(betas, name):
    peer = DDPMScheduler(beta_start=betas.start or 1e-4, beta_end=betas.end, beta_schedule=name)
    assert torch.allclose(betas.values().float(), peer.betas, rtol=1e-6, atol=1e-9)
    # their product of a thousand float32 factors is only so exact
    assert torch.allclose(products(table_of(betas)).float(), peer.alphas_cumprod, rtol=2e-4, atol=0)


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


GOLDEN = {
    ("karras", 10): [14.6146, 9.1029, 5.4784, 3.1686, 1.7494, 0.9141, 0.4469, 0.2014, 0.0819, 0.0292, 0],
    ("normal", 10): [14.6146, 7.8399, 4.6092, 2.9183, 1.9502, 1.3449, 0.9324, 0.6250, 0.3687, 0.0292, 0],
    ("exponential", 10): [14.6146, 7.3249, 3.6712, 1.8400, 0.9222, 0.4622, 0.2317, 0.1161, 0.0582, 0.0292, 0],
}


@pytest.mark.parametrize(("name", "steps"), GOLDEN)
def test_published_lists(name, steps):
    assert schedule(name, SD, steps).tolist() == pytest.approx(GOLDEN[name, steps], abs=6e-5)


def test_twenty_karras_steps():
    sigmas = schedule("karras", SD, 20).tolist()
    assert sigmas[:6] == pytest.approx([14.6146, 11.7254, 9.3402, 7.3836, 5.7894, 4.4998], abs=6e-5)
    assert sigmas[-5:] == pytest.approx([0.1213, 0.0779, 0.0485, 0.0292, 0], abs=6e-5)


def whole_times(name, steps, table=SD):
    """The times of a schedule of whole times, as integers."""
    times = table.time(SCHEDULES[name](table, steps))
    assert torch.allclose(times, times.round(), atol=1e-9)
    return times.round().long().tolist()


@pytest.mark.parametrize("name", ["trailing", "leading", "linspace"])
def test_whole_times_equal_diffusers_for_every_number_of_steps(name):
    peer = DDIMScheduler(**PEER_BETAS, timestep_spacing=name, steps_offset=1 if name == "leading" else 0)
    longer = 0
    for steps in range(1, 1000):
        peer.set_timesteps(steps)
        theirs = peer.timesteps.tolist()
        longer += len(theirs) > steps
        # for some numbers of steps their `trailing` has one more, at time -1: a slip of floating point
        assert theirs[steps:] in ([], [-1])
        assert whole_times(name, steps) == theirs[:steps], steps
    assert longer == (62 if name == "trailing" else 0)


@pytest.mark.parametrize("betas", [STABLE_DIFFUSION, TUTORIAL])
def test_simple_equals_comfyui_for_every_number_of_steps(betas):
    sigmas = table_of(betas).sigmas
    for steps in range(1, len(sigmas) + 1):
        stride = len(sigmas) / steps
        theirs = sigmas[[-(1 + int(step * stride)) for step in range(steps)]]
        assert SCHEDULES["simple"](table_of(betas), steps).equal(theirs), steps


WHOLE = {"simple", "trailing", "leading", "linspace"}


@pytest.mark.parametrize("betas", [STABLE_DIFFUSION, COSINE, TUTORIAL])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_strictly_to_0_or_are_refused(name, betas):
    table = table_of(betas)
    levels = len(table.sigmas) - (name == "leading")
    for steps in range(1, 1001):
        if name in WHOLE and steps > levels:
            with pytest.raises(ValueError, match=f"schedule {name} has no {steps} different noise levels; take fewer"):
                schedule(name, table, steps)
            continue
        sigmas = schedule(name, table, steps)
        assert sigmas.dtype == torch.float32
        assert len(sigmas) == steps + 1
        assert sigmas[-1] == 0
        assert bool((sigmas[:-1] > sigmas[1:]).all())
        # a float32 may lie half a unit outside the table
        assert table.sigmas[0] * (1 - 1e-7) <= sigmas[-2] and sigmas[0] <= table.sigmas[-1] * (1 + 1e-7)


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"leading", "linspace"}))
def test_one_step_starts_at_the_noisiest_level(name):
    assert schedule(name, SD, 1).tolist() == pytest.approx([14.6146412, 0])


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 25, 30, 50])
@pytest.mark.parametrize("strength", [round(0.05 * step, 2) for step in range(21)])
def test_image_to_image_starts_where_the_peers_do(strength, steps):
    peer = DDIMScheduler(**PEER_BETAS, timestep_spacing="trailing")
    peer.set_timesteps(steps)
    pipeline = SimpleNamespace(scheduler=peer)
    times, _ = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, "cpu")
    left = last_part(schedule("trailing", SD, steps), strength, "diffusers")
    assert SD.time(left[:-1]).round().long().tolist() == times.tolist()
    assert left[-1] == 0

    sigmas = schedule("karras", SD, steps)
    encoded = int(min(strength, 0.999) * steps)  # AUTOMATIC1111, sd_samplers_common.setup_img2img_steps
    assert last_part(sigmas, strength, "a1111").equal(sigmas[steps - encoded - 1 :])


@pytest.mark.parametrize("steps", [1, 20, 1000])
def test_ends_of_strength(steps):
    sigmas = schedule("karras", SD, steps)
    assert last_part(sigmas, 0.0, "diffusers").tolist() == [0]
    assert len(last_part(sigmas, 0.0, "a1111")) == 2
    for rule in ("diffusers", "a1111"):
        assert last_part(sigmas, 1.0, rule).equal(sigmas)


def test_the_request_names_what_exists():
    assert set(get_args(ScheduleName)) == SCHEDULES.keys()
    assert set(get_args(NoiseSourceName)) == NOISE_SOURCES.keys()
    assert ETA.keys() <= set(get_args(SamplerName))


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_every_sampler_of_the_request_runs(name):
    source = NOISE_SOURCES["torch-cpu"]([0, 1])
    x = source.normal((1, 4, 4)) * 14.6
    walk = sampling(name, x, schedule("karras", SD, 5), lambda s, t: source.normal((1, 4, 4)), ETA.get(name))
    assert run(walk, lambda query: Prediction(query.x / (1 + query.sigma**2))).isfinite().all()


def test_other_samplers_are_refused():
    with pytest.raises(ValueError, match="there is no sampler 'plms'"):
        sampling("plms", torch.zeros(1, 1, 1, 1), torch.zeros(1), lambda s, t: s, None)


# torch-cpu, version 1.  Its logarithm and cosine may differ in the last bit between processors.
NUMBERS = {
    0: [-1.12583983, -1.1523602, -0.250578582, -0.433878809],
    7: [-0.820134521, 0.395631164, 0.898908496, -1.38840389],
    2**63 - 1: [-2.66429758, -1.0910486, 0.451447427, 0.228360698],
}


@pytest.mark.parametrize("seed", NUMBERS)
def test_noise_is_what_it_was(seed):
    noise = TorchCpu([seed]).normal((4, 8, 8))
    assert noise.shape == (1, 4, 8, 8)
    assert noise.dtype == torch.float32
    assert noise.flatten()[:4].tolist() == pytest.approx(NUMBERS[seed], abs=1e-6)


def test_the_generator_reads_32_bits_of_a_seed():
    assert TorchCpu([7 + 2**32]).normal((4, 8, 8)).equal(TorchCpu([7]).normal((4, 8, 8)))


@given(seed=st.integers(0, 2**63 - 4), size=st.integers(1, 4), draws=st.integers(1, 3))
def test_a_picture_of_a_batch_has_the_noise_of_its_own_seed(seed, size, draws):
    shape = (4, 3, 5)
    batch = TorchCpu([seed + index for index in range(size)])
    singles = [TorchCpu([seed + index]) for index in range(size)]
    for _ in range(draws):
        together = batch.normal(shape)
        assert together.equal(torch.cat([single.normal(shape) for single in singles]))


def test_noise_is_standard_normal_and_independent_of_the_global_seed():
    torch.manual_seed(0)
    first = TorchCpu([1, 2]).normal((4, 64, 64))
    torch.manual_seed(1)
    assert TorchCpu([1, 2]).normal((4, 64, 64)).equal(first)
    assert abs(first.mean().item()) < 0.02
    assert abs(first.std().item() - 1) < 0.02
    assert abs(np.corrcoef(first.flatten(1).numpy())[0, 1]) < 0.03
