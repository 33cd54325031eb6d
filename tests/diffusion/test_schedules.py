"""Schedules against their peers for every number of steps, and where image-to-image starts."""

from functools import cache
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch

from marmo.diffusion.noise import COSINE, STABLE_DIFFUSION, Betas, NoiseTable
from marmo.diffusion.schedules import ALIGN_SD1, ALIGN_SDXL, SCHEDULES, beta_quantile, last_part, schedule
from marmo.solver_names import ScheduleName

TUTORIAL = Betas(kind="linear", start=1e-4, end=0.02, num_levels=300)
PEER_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@cache
def table_of(betas: Betas) -> NoiseTable:
    return NoiseTable(betas)


SD = table_of(STABLE_DIFFUSION)


GOLDEN = {
    ("karras", 10): [14.6146, 9.1029, 5.4784, 3.1686, 1.7494, 0.9141, 0.4469, 0.2014, 0.0819, 0.0292, 0],
    ("normal", 10): [14.6146, 7.8399, 4.6092, 2.9183, 1.9502, 1.3449, 0.9324, 0.6250, 0.3687, 0.0292, 0],
    ("sgm_uniform", 10): [14.6146, 8.3072, 5.0924, 3.3251, 2.2797, 1.6156, 1.1629, 0.8319, 0.5712, 0.3437, 0],
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


@pytest.mark.parity
@pytest.mark.long
@pytest.mark.parametrize("name", ["trailing", "leading", "linspace"])
def test_whole_times_equal_diffusers_for_every_number_of_steps(name):
    from diffusers import DDIMScheduler

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


@pytest.mark.long
@pytest.mark.parametrize("betas", [STABLE_DIFFUSION, TUTORIAL])
def test_simple_equals_comfyui_for_every_number_of_steps(betas):
    sigmas = table_of(betas).sigmas
    for steps in range(1, len(sigmas) + 1):
        stride = len(sigmas) / steps
        theirs = sigmas[[-(1 + int(step * stride)) for step in range(steps)]]
        assert SCHEDULES["simple"](table_of(betas), steps).equal(theirs), steps


def table_sigmas(times):
    return SD.sigmas[torch.as_tensor(times)]


def test_ddim_uniform_equals_comfyui_for_every_number_of_steps():
    longer = 0
    for steps in range(1, 1001):
        theirs = SD.sigmas[list(range(1, 1000, max(1000 // steps, 1)))].flip(0)
        assert SCHEDULES["ddim_uniform"](SD, steps).equal(theirs), steps
        longer += len(theirs) > steps
    assert longer == 977


def test_forges_turbo_is_trailing():
    apart = [
        steps
        for steps in range(1, 1001)
        if not table_sigmas(
            ((torch.arange(1, steps + 1) * float(1000.0 / steps) - 1).flip(0).round().long()).clip(0, 999)
        ).equal(SCHEDULES["trailing"](SD, steps))
    ]
    assert len(apart) == 61 and all(steps % 16 == 0 for steps in apart)  # where halves are rounded to even


@pytest.mark.long
@pytest.mark.parametrize("steps", [1, 2, 10, 20, 33, 150])
def test_beta_equals_diffusers_and_a1111(steps):
    """Quantiles between the ends of sigma."""
    import scipy.stats

    theirs = [float(scipy.stats.beta.ppf(share, 0.6, 0.6)) for share in 1 - np.linspace(0, 1, steps)]
    low, high = SD.sigmas[0], SD.sigmas[-1]
    assert torch.allclose(
        SCHEDULES["beta"](SD, steps), low + torch.tensor(theirs, dtype=torch.float64) * (high - low), rtol=1e-6
    )


def test_beta_times_equal_comfyui_for_every_number_of_steps():
    import scipy.stats

    for steps in [*range(1, 60), 100, 150, 300]:
        shares = 1 - np.linspace(0, 1, steps, endpoint=False)
        theirs = np.rint(scipy.stats.beta.ppf(shares, 0.6, 0.6) * 999).astype(int)
        assert SCHEDULES["beta_times"](SD, steps).equal(table_sigmas(theirs)), steps


def test_beta_quantiles_are_scipys():
    import scipy.stats

    shares = torch.cat([torch.linspace(0, 1, 1001), torch.tensor([1e-12, 1e-6, 1 - 1e-9])]).double()
    theirs = torch.from_numpy(scipy.stats.beta.ppf(shares.numpy(), 0.6, 0.6))
    assert torch.allclose(beta_quantile(shares), theirs, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("steps", [2, 10, 31])
def test_kl_optimal_equals_comfyui(steps):
    share = torch.arange(steps).double() / (steps - 1)
    ends = SD.sigmas[[0, -1]].atan()
    theirs = (share * ends[0] + (1 - share) * ends[1]).tan()
    assert torch.allclose(SCHEDULES["kl_optimal"](SD, steps), theirs, rtol=1e-12)


def test_polyexponential_is_exponential_until_its_power_is_another():
    assert torch.allclose(SCHEDULES["polyexponential"](SD, 20), SCHEDULES["exponential"](SD, 20), rtol=1e-12)
    bent = SCHEDULES["polyexponential"](SD, 21, rho=2.0)
    assert bent[10].log().item() == pytest.approx(0.25 * SD.log_sigmas[-1] + 0.75 * SD.log_sigmas[0])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "levels", "peer"),
    [
        ("align_your_steps", ALIGN_SD1, "StableDiffusionSigmas"),
        ("align_your_steps_sdxl", ALIGN_SDXL, "StableDiffusionXLSigmas"),
    ],
)
def test_align_your_steps_is_the_published_list(name, levels, peer):
    from diffusers.schedulers import AysSchedules

    ten = schedule(name, SD, 10)
    assert ten.tolist() == pytest.approx(AysSchedules[peer], abs=1e-6)
    twenty = schedule(name, SD, 20)
    assert twenty[::2].tolist() == pytest.approx([*levels[:-1], 0.0], rel=1e-6)
    middles = (torch.tensor(levels[:-1]) * torch.tensor(levels[1:])).sqrt()  # even in log sigma
    assert torch.allclose(twenty[1::2], middles, rtol=1e-6)


def test_align_your_steps_refuses_other_models_noise():
    with pytest.raises(ValueError, match=r"align_your_steps knows models that start at sigma 14.615, and this one"):
        schedule("align_your_steps", table_of(COSINE), 10)


@pytest.mark.parametrize("name", ["karras", "normal", "simple"])
def test_the_penultimate_level_can_be_left_out(name):
    longer = schedule(name, SD, 11)
    left = schedule(name, SD, 10, discard_penultimate=True)
    assert left.tolist() == [*longer[:-2].tolist(), 0.0]


WHOLE = {"simple", "trailing", "leading", "linspace"}
ALIGNED = {"align_your_steps", "align_your_steps_sdxl"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "betas"),
    [
        (name, betas)
        for name in SCHEDULES
        for betas in (STABLE_DIFFUSION, COSINE, TUTORIAL)
        if name not in ALIGNED or betas == STABLE_DIFFUSION
    ],
)
def test_schedules_fall_strictly_to_0_or_are_refused(name, betas):
    table = table_of(betas)
    levels = len(table.sigmas) - (name in ("leading", "ddim_uniform"))
    for steps in [*range(1, 60), *range(60, 1001, 47), levels - 1, levels, levels + 1]:
        if name in WHOLE and steps > levels:
            with pytest.raises(ValueError, match=f"schedule {name} has no {steps} different noise levels; take fewer"):
                schedule(name, table, steps)
            continue
        try:
            sigmas = schedule(name, table, steps)
        except ValueError:
            assert name == "beta_times" and steps > 60  # whole times lie close at both ends of the table
            continue
        assert sigmas.dtype == torch.float32
        assert len(sigmas) == steps + 1 or name == "ddim_uniform"
        assert sigmas[-1] == 0
        assert bool((sigmas[:-1] > sigmas[1:]).all())
        # a float32 may lie half a unit outside the table, and a published list has few digits
        slack = 1e-4 if name in ALIGNED else 1e-7
        assert table.sigmas[0] * (1 - slack) <= sigmas[-2] and sigmas[0] <= table.sigmas[-1] * (1 + slack)


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"leading", "linspace", "ddim_uniform"}))
def test_one_step_starts_at_the_noisiest_level(name):
    assert schedule(name, SD, 1).tolist() == pytest.approx([14.6146412, 0], rel=1e-4 if name in ALIGNED else 1e-7)


@pytest.mark.parity
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 25, 30, 50])
@pytest.mark.parametrize("strength", [round(0.05 * step, 2) for step in range(21)])
def test_image_to_image_starts_where_the_peers_do(strength, steps):
    from diffusers import DDIMScheduler
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import StableDiffusionImg2ImgPipeline

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
