"""What samplers and guidance owe to mathematics, without a peer: equal formulae, orders of convergence, bits."""

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch

from marmo.diffusion.denoiser import FLOW_CLOCK, Parametrisation, denoise
from marmo.diffusion.guidance import ClassifierFree, Unguided
from marmo.diffusion.noise import SIGMA_CAP, STABLE_DIFFUSION, NoiseTable
from marmo.diffusion.samplers import (
    ASK_TWICE,
    BROWNIAN,
    CFG_PP,
    Prediction,
    Query,
    dpmpp_2m,
    drive,
    euler,
    heun,
    run,
    sampling,
)
from marmo.diffusion.schedules import schedule
from marmo.diffusion.sources import TorchCpu
from marmo.solver_names import ETA, SamplerName

SAMPLERS = get_args(SamplerName)
FIRST_ORDER = {"euler", "euler_ancestral", "ddim", "ddpm", "euler_cfg_pp", "euler_ancestral_cfg_pp"}
DISTILLED = {"lcm", "tcd"}  # they take x0 for the end of the trajectory, which a denoiser's is not
RAW = {"heun", "dpm_2", "dpm_2_ancestral", "plms", "restart"}
TABLE = NoiseTable(STABLE_DIFFUSION)
SHAPE = (2, 3, 4, 4)
PAIRS = [(14.6, 14.5), (14.6, 7.0), (7.0, 0.03), (1.0, 0.999), (0.3, 0.1), (157.0, 150.0), (0.03, 0.0)]


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def no_noise(s, t):
    raise AssertionError("a deterministic sampler asked for noise")


def walk(name, x, sigmas, source):
    """The named sampler as a pipeline calls it."""
    shape = x.shape[1:]
    noise = source.path(shape, sigmas) if name in BROWNIAN else lambda s, t: source.normal(shape)
    return sampling(name, x, sigmas, noise, ETA.get(name), TABLE)


def one_step(s, t, x, x0, z, eta):
    sigmas = torch.tensor([s, t], dtype=torch.float64)
    return run(euler(x, sigmas, lambda *_: z, eta), lambda query: Prediction(x0))


# One step is four samplers


def to_vp(sigma, x):
    return x / math.sqrt(1 + sigma**2)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_a_step_is_ddim(s, t, eta):
    """Song et al. 2020, equations 12 and 16, in their own coordinates."""
    x0, x, z = randn(3, *SHAPE)
    alpha, before = 1 / (1 + s**2), 1 / (1 + t**2)
    eps = (to_vp(s, x) - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
    fresh = eta * math.sqrt((1 - before) / (1 - alpha)) * math.sqrt(1 - alpha / before)
    ddim = math.sqrt(before) * x0 + math.sqrt(1 - before - fresh**2) * eps + fresh * z
    assert torch.allclose(to_vp(t, one_step(s, t, x, x0, z, eta)), ddim, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_a_step_with_eta_1_is_the_ddpm_posterior(s, t):
    """Ho et al. 2020, equations 6 and 7, with the small variance."""
    x0, x, z = randn(3, *SHAPE)
    alpha_bar, before = 1 / (1 + s**2), 1 / (1 + t**2)
    alpha = alpha_bar / before
    mean = math.sqrt(before) * (1 - alpha) / (1 - alpha_bar) * x0
    mean = mean + math.sqrt(alpha) * (1 - before) / (1 - alpha_bar) * to_vp(s, x)
    variance = (1 - before) / (1 - alpha_bar) * (1 - alpha)
    posterior = mean + math.sqrt(variance) * z
    assert torch.allclose(to_vp(t, one_step(s, t, x, x0, z, 1.0)), posterior, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_a_step_is_k_diffusions_ancestral_step(s, t, eta):
    x0, x, z = randn(3, *SHAPE)
    up = min(t, eta * (t**2 * (s**2 - t**2) / s**2) ** 0.5)
    down = (t**2 - up**2) ** 0.5
    slope = (x - x0) / s
    assert torch.allclose(one_step(s, t, x, x0, z, eta), x + slope * (down - s) + z * up, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), [*PAIRS, (0.0317, 0.03162), (14.6, 0.003), (1e8, 1e4)])
def test_float32_sigmas_split_as_exactly_as_float64(s, t):
    s, t = torch.tensor(s), torch.tensor(t)
    x0, x, z = (part.float() for part in randn(3, *SHAPE))
    x = x0 + x * s
    mine = run(euler(x, torch.stack([s, t]), lambda *_: z, 1.0), lambda query: Prediction(x0))
    exact = one_step(s.item(), t.item(), x.double(), x0.double(), z.double(), 1.0)
    assert (mine - exact).abs().max() <= 3e-7 * exact.abs().max()


def test_euler_is_ddim_and_ancestral_is_ddpm_to_the_bit():
    sigmas, x = schedule("karras", TABLE, 12), TorchCpu([3]).normal((4, 8, 8)) * 14.6

    def final(name, eta):
        source = TorchCpu([3])
        return run(sampling(name, x, sigmas, lambda s, t: source.normal((4, 8, 8)), eta), bounded)

    assert final("euler", None).equal(final("ddim", 0.0))
    assert final("euler_ancestral", 1.0).equal(final("ddpm", 1.0))
    assert final("ddim", 1.0).equal(final("ddpm", 1.0))
    assert not final("ddim", 0.5).equal(final("ddim", 0.0))


# Convergence on a Gaussian, whose score and whose flow are known

MEAN, WIDTH = randn(*SHAPE, seed=1), 0.5 + randn(*SHAPE, seed=2).abs()


def gaussian(mean=MEAN, width=WIDTH):
    """The exact denoiser of a normal distribution."""
    return lambda query: Prediction((width**2 * query.x + query.sigma**2 * mean) / (query.sigma**2 + width**2))


def flow_of_gaussian(x, high, low=0.0, mean=MEAN, width=WIDTH):
    return mean + (x - mean) * ((width**2 + low**2) / (width**2 + high**2)).sqrt()


def falling(steps, high=10.0, rho=7.0):
    """Karras et al.'s levels down to 0 itself, so that the last step vanishes as well."""
    return high * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps) ** rho


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*SAMPLERS} - DISTILLED))
@pytest.mark.parametrize("grid", ["karras", "trailing"])
def test_samplers_find_the_distribution(name, grid):
    """float32, Stable Diffusion's own levels, fresh noise where the sampler wants it."""
    mean, width = torch.tensor(0.7), torch.tensor(0.5)
    source = TorchCpu([11])
    sigmas = schedule(grid, TABLE, 60)
    x = mean + (width**2 + sigmas[0] ** 2).sqrt() * source.normal((1, 128, 128))
    final = run(walk(name, x, sigmas, source), gaussian(mean, width))
    assert final.dtype == torch.float32
    assert final.mean().item() == pytest.approx(0.7, abs=0.02)
    # solvers of first order shrink by about 1 / steps
    assert final.std().item() == pytest.approx(0.5, rel=0.12 if name in FIRST_ORDER else 0.06)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", sorted(DISTILLED))
def test_samplers_of_distilled_models_find_it_in_few_steps(name, steps):
    """With the consistency function itself: where the flow through x ends."""
    source, sigmas = TorchCpu([11]), schedule("sgm_uniform", TABLE, steps)
    mean, width = torch.tensor(0.7), torch.tensor(0.5)
    x = mean + (width**2 + sigmas[0] ** 2).sqrt() * source.normal((1, 128, 128))
    noise = lambda s, t: source.normal((1, 128, 128))  # noqa: E731
    end = lambda query: Prediction(flow_of_gaussian(query.x, query.sigma, mean=mean, width=width))  # noqa: E731
    final = run(sampling(name, x, sigmas, noise, 1.0, TABLE), end)
    assert final.mean().item() == pytest.approx(0.7, abs=0.02)
    assert final.std().item() == pytest.approx(0.5, rel=0.03)


# Infinite noise


def flow_network(x, t):
    """A bent network of a rectified flow; its clock t B runs from 0 to 1000."""
    return (1.3 * x + 0.7 * t[:, None, None, None] / FLOW_CLOCK).tanh() - 0.4 * x.flip(3) + 0.2 * (3 * x).sin()


@pytest.mark.parametrize("steps", [4, 30])
def test_flow_from_the_cap_equals_its_own_time(steps):
    noise = randn(*SHAPE, seed=4)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    x = noise
    for t, after in pairwise(times):
        x = x + (after - t) * flow_network(x, FLOW_CLOCK * t.expand(len(x)))

    sigmas = (times / (1 - times)).clamp(max=SIGMA_CAP).float()
    row = Parametrisation("flow")
    start = (1 + SIGMA_CAP) * noise.float()
    final = run(
        euler(start, sigmas, no_noise), lambda q: Prediction(denoise(flow_network, row, q.x, q.sigma.expand(2)))
    )
    assert final.dtype == torch.float32
    assert (final - x).abs().max() <= 1e-5 * x.abs().max()


@pytest.mark.long
@pytest.mark.parametrize("target", ["flow", "v"])
@pytest.mark.parametrize("name", sorted({*SAMPLERS} - RAW))
def test_solvers_do_not_notice_the_cap(name, target):
    source, x = TorchCpu([0, 1]), SIGMA_CAP * TorchCpu([0, 1]).normal(SHAPE[1:])
    sigmas = torch.cat([torch.tensor([SIGMA_CAP]), schedule("trailing", TABLE, 11)])
    row = Parametrisation(target, TABLE)
    final = run(
        walk(name, x, sigmas, source),
        lambda q: Prediction(denoise(lambda x, t: (x + 0.1).tanh(), row, q.x, q.sigma.expand(2))),
    )
    assert final.isfinite().all()
    assert final.abs().max() < 10


@pytest.mark.long
@pytest.mark.parametrize("high", [SIGMA_CAP, 4518.8])
@pytest.mark.parametrize("name", sorted({*SAMPLERS} - RAW - DISTILLED))
def test_from_the_cap_solvers_find_the_distribution(name, high):
    """4518.8 is ComfyUI's stand-in for zero terminal SNR."""
    mean, width = torch.tensor(0.7), torch.tensor(0.5)
    source = TorchCpu([11])
    sigmas = torch.cat([torch.tensor([high]), schedule("karras", TABLE, 40)])
    x = mean + high * source.normal((1, 96, 96))
    final = run(walk(name, x, sigmas, source), gaussian(mean, width))
    assert final.mean().item() == pytest.approx(0.7, abs=0.03)
    assert final.std().item() == pytest.approx(0.5, rel=0.15 if name in FIRST_ORDER else 0.06)


@pytest.mark.parametrize("name", sorted(RAW))
def test_solvers_in_raw_sigma_refuse_the_cap_with_a_sentence(name):
    sigmas = torch.tensor([SIGMA_CAP, 1.0, 0.0])
    with pytest.raises(ValueError, match=rf"{name} cannot start at sigma 1e\+08, above 1000; use dpmpp_2m"):
        run(walk(name, torch.zeros(SHAPE), sigmas, TorchCpu([0, 1])), gaussian())


# Bits


def bounded(query):
    """A bent denoiser that works number by number."""
    return Prediction((query.x / (1 + query.sigma**2).sqrt() + 0.1 * query.sigma).tanh())


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_is_a_picture_alone_and_in_a_batch(name):
    sigmas = schedule("karras", TABLE, 9)

    def final(*seeds):
        source = TorchCpu(seeds)
        x = source.normal((4, 8, 8)) * sigmas[0]
        return run(walk(name, x, sigmas, source), bounded)

    batch = final(5, 6, 7)
    assert batch.equal(final(5, 6, 7))
    assert batch.equal(torch.cat([final(5), final(6), final(7)]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_asks(name):
    sigmas = schedule("normal", TABLE, 5)
    x = TorchCpu([3, 4]).normal((3, 4, 4)) * sigmas[0]
    before, levels = x.clone(), []

    def noise(s, t):
        levels.append((s.item(), t.item()))
        return torch.ones(2, 3, 4, 4)

    def asked():
        return drive(sampling(name, x, sigmas, noise, ETA.get(name), TABLE), bounded)

    seen, driven = [], asked()
    try:
        while True:
            seen.append(next(driven))
    except StopIteration as end:
        final = end.value

    indices = [query.index for query, _ in seen]
    twice = [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert indices == (twice if name in ASK_TWICE else [0, 0, 1, 2, 3, 4] if name == "plms" else [0, 1, 2, 3, 4])
    starts = [next(query.sigma for query, _ in seen if query.index == index) for index in range(5)]
    assert torch.stack(starts).equal(sigmas[:-1])
    assert all(prediction.x0.equal(bounded(query).x0) for query, prediction in seen)
    # the last level above 0 is the clock's start, below which tcd cannot aim
    fresh = 0 if not ETA.get(name, name == "lcm") else 3 if name == "tcd" else 4
    assert [pair for pair in levels if pair[1] in sigmas] == list(pairwise(sigmas[:-1].tolist()))[:fresh]
    assert x.equal(before)
    assert final.equal(run(sampling(name, x, sigmas, noise, ETA.get(name), TABLE), bounded))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_empty_schedule_gives_the_start_back(name):
    x = randn(*SHAPE)
    assert run(sampling(name, x, torch.zeros(1), no_noise, ETA.get(name), TABLE), no_noise) is x


def test_many_runs_can_be_driven_in_turns():
    sigmas = [schedule("karras", TABLE, steps) for steps in (4, 7, 5)]
    starts = [14.6 * randn(*SHAPE, seed=seed).float() for seed in range(3)]
    walks = [solver(x, s) for solver, x, s in zip((dpmpp_2m, heun, dpmpp_2m), starts, sigmas, strict=True)]
    alone = [
        run(solver(x, s), bounded) for solver, x, s in zip((dpmpp_2m, heun, dpmpp_2m), starts, sigmas, strict=True)
    ]
    open_questions = {index: next(walk) for index, walk in enumerate(walks)}
    finals = {}
    while open_questions:
        for index, query in list(open_questions.items()):
            try:
                open_questions[index] = walks[index].send(bounded(query))
            except StopIteration as end:
                finals[index] = end.value
                del open_questions[index]
    assert all(finals[index].equal(alone[index]) for index in range(3))


# Guidance

EPS, V = Parametrisation("eps", TABLE), Parametrisation("v", TABLE)


def guided(guidance, network, asked=None):
    """Answers of a network (x, sigma, condition) -> x0 under a guidance."""

    def answer(query):
        rows = guidance.rows(query.index, float(query.sigma))
        if asked is not None:
            asked.append((float(query.sigma), tuple(rows)))
        return guidance.combine(query, [network(query.x, query.sigma, row) for row in rows])

    return answer


def conditional(x, sigma, condition):
    return (x / (1 + sigma**2).sqrt() + condition).tanh()


def final_of(answer, name="dpmpp_2m"):
    source = TorchCpu([1, 2])
    sigmas = schedule("karras", TABLE, 8)
    x = source.normal((4, 8, 8)) * sigmas[0]
    return run(walk(name, x, sigmas, source), answer)


def pulled(scale, **more):
    return guided(ClassifierFree(0.5, -0.25, scale, EPS, **more), conditional)


def unguided(condition):
    return guided(Unguided(condition), conditional)


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLERS)
def test_ends_of_the_guidance_scale(name):
    alone = final_of(unguided(0.5), name)
    assert alone.equal(final_of(lambda query: Prediction(conditional(query.x, query.sigma, 0.5)), name))
    assert final_of(pulled(0.0), name).equal(final_of(unguided(-0.25), name))
    # CFG++ takes the noise of the unconditional answer at every scale
    assert torch.allclose(final_of(pulled(1.0), name), alone, atol=1e-5) == (name not in CFG_PP)
    assert not torch.allclose(final_of(pulled(4.0), name), alone, atol=1e-2)


def test_outside_its_interval_only_the_condition_is_asked():
    asked = []
    final_of(guided(ClassifierFree(0.5, -0.25, 5.0, EPS, low=0.5, high=6.0), conditional, asked))
    assert len(asked) == 8
    assert {rows for sigma, rows in asked if 0.5 < sigma <= 6.0} == {(-0.25, 0.5)}
    assert {rows for sigma, rows in asked if not 0.5 < sigma <= 6.0} == {(0.5,)}
    assert final_of(pulled(5.0, rescale=0.7, low=20.0)).equal(final_of(unguided(0.5)))
    assert final_of(pulled(5.0, low=0.0, high=15.0)).equal(final_of(pulled(5.0)))


def test_the_interval_is_open_below_and_closed_above():
    guidance = ClassifierFree("cond", "uncond", 5.0, EPS, low=1.0, high=2.0)
    rows = {sigma: len(guidance.rows(0, sigma)) for sigma in (0.5, 1.0, 1.5, 2.0, 2.5)}
    assert rows == {0.5: 1, 1.0: 1, 1.5: 2, 2.0: 2, 2.5: 1}


def test_the_parts_of_a_guided_answer_are_kept():
    x = randn(*SHAPE).float()
    query = Query(x, torch.tensor(2.0), 0)
    prediction = ClassifierFree("cond", "uncond", 3.0, EPS).combine(query, [x, 2 * x])
    assert prediction.cond.equal(2 * x)
    assert prediction.uncond.equal(x)
    assert torch.allclose(prediction.x0, 4 * x)
    alone = Unguided("cond").combine(query, [x])
    assert alone.x0.equal(x)
    assert alone.cond.equal(x)
    assert alone.uncond is None


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 7.5])
def test_guidance_between_two_gaussians_has_a_closed_form(scale):
    """Of equal width: guidance only moves the mean, to uncond + scale (cond - uncond)."""
    with_cond, without = randn(2, *SHAPE, seed=5)

    def network(x, sigma, mean):
        return gaussian(mean)(Query(x, sigma, 0)).x0

    x = 10 * randn(*SHAPE, seed=6)
    final = run(heun(x, falling(200)), guided(ClassifierFree(with_cond, without, scale, EPS), network))
    exact = flow_of_gaussian(x, 10.0, mean=without + scale * (with_cond - without))
    assert torch.allclose(final, exact, atol=2e-3)


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_guided_score_of_two_gaussians(scale):
    """Of any widths: the scores add with weights 1 - scale and scale (Ho and Salimans 2022, equation 6)."""
    x, with_cond, without = randn(3, *SHAPE)
    sigma = torch.tensor(1.7, dtype=torch.float64)
    score = (1 - scale) * (without - x) / (0.8**2 + sigma**2) + scale * (with_cond - x) / (0.3**2 + sigma**2)
    query = Query(x, sigma, 0)
    answers = [gaussian(without, torch.tensor(0.8))(query).x0, gaussian(with_cond, torch.tensor(0.3))(query).x0]
    x0 = ClassifierFree("cond", "uncond", scale, EPS).combine(query, answers).x0
    assert torch.allclose(x0, x + sigma**2 * score, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 14.6])
@pytest.mark.parametrize("row", [EPS, V], ids=["eps", "v"])
def test_rescale_equals_diffusers_on_the_networks_output(row, sigma, rescale):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    x, uncond, cond = (part.float() for part in randn(3, 3, 4, 8, 8))
    cond = cond * torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]
    theirs = rescale_noise_cfg(uncond + 7.5 * (cond - uncond), cond, guidance_rescale=rescale)

    sigmas = torch.full((3,), sigma)
    x = x * (1 + sigma**2) ** 0.5
    answers = [row.to_x0(x, output, sigmas) for output in (uncond, cond)]
    guidance = ClassifierFree("cond", "uncond", 7.5, row, rescale=rescale)
    ours = row.to_output(x, guidance.combine(Query(x, torch.tensor(sigma), 0), answers).x0, sigmas)
    # an eps drawn from an x0 of float32 has lost 1 / sigma of its digits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
