"""Whole trajectories of diffusers' schedulers and of k-diffusion, walked again in our one space.

Two comparisons with diffusers.  `test_steps` gives both sides the same noise levels and the same clock, so that only
the solver is compared.  `test_runs` gives our side nothing but a schedule's name, where the two have the same schedule.

diffusers' latents of variance-preserving schedulers are brought to x0 + sigma * noise: times sqrt(1 + sigma^2).
"""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from marmo.diffusion.denoiser import Parametrisation, denoise
from marmo.diffusion.noise import DDPM, STABLE_DIFFUSION, NoiseTable, schedule
from marmo.diffusion.samplers import Prediction, drive, euler, run, sampling

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

SHAPE = (2, 4, 6, 5)
TABLE = NoiseTable(STABLE_DIFFUSION)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
VARIANCE_PRESERVING = (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler)
LIMIT = 1e-5  # of the largest absolute value; most are below 1e-6


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INNER, OUTER, RATES = 0.25 * randn(0, 8, 4, 3, 3), 0.25 * randn(1, 4, 8, 3, 3), randn(2, 8)


def network(x, t):
    """A bent network with a clock: x B C H W, t B."""
    clock = (0.01 * t[:, None] * RATES).sin()[:, :, None, None]
    return F.conv2d((F.conv2d(x, INNER, padding=1) + clock).tanh(), OUTER, padding=1) + 0.7 * x


@dataclass(frozen=True)
class Case:
    """Our sampler, their scheduler, and the name of our schedule where it is theirs too."""

    sampler: str
    eta: float | None
    peer: type
    options: tuple[tuple[str, object], ...]
    schedule: str | None

    def __str__(self):
        spacing = dict(self.options)["timestep_spacing"]
        return f"{self.sampler}-{self.eta}-{spacing}-{self.schedule}"


def case(sampler, eta, peer, spacing, ours, **options):
    """`leading` as every Stable Diffusion is published: from time 1."""
    options |= {"timestep_spacing": spacing, "steps_offset": 1 if spacing == "leading" else 0}
    return Case(sampler, eta, peer, tuple(options.items()), ours)


DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}
CASES = [
    # DDIM steps to t - 1000 // steps, which is its next time for these two only (trailing: where steps divide 1000)
    *(
        case("ddim", eta, DDIMScheduler, spacing, spacing, clip_sample=False, set_alpha_to_one=True)
        for spacing in ("leading", "trailing")
        for eta in (0.0, 0.5, 1.0)
    ),
    *(
        case("ddpm", 1.0, DDPMScheduler, spacing, spacing, clip_sample=False, variance_type="fixed_small")
        for spacing in ("leading", "trailing", "linspace")
    ),
    # their linspace of these is of fractional times, with sigma interpolated linearly: our `normal`, but for a 2e-5
    *(
        case(sampler, eta, peer, spacing, "normal" if spacing == "linspace" else spacing)
        for spacing in ("leading", "trailing", "linspace")
        for sampler, eta, peer in (
            ("euler", None, EulerDiscreteScheduler),
            ("euler_ancestral", 1.0, EulerAncestralDiscreteScheduler),
            ("heun", None, HeunDiscreteScheduler),
        )
    ),
    # they space Karras' and exponential levels between the ends of timestep_spacing: only linspace has the table's ends
    *(
        case(sampler, None, peer, spacing, kind if spacing == "linspace" else None, **{f"use_{kind}_sigmas": True})
        for kind in ("karras", "exponential")
        for spacing in ("leading", "trailing", "linspace")
        for sampler, peer in (("euler", EulerDiscreteScheduler), ("heun", HeunDiscreteScheduler))
    ),
    # their linspace and leading of DPM-Solver divide by steps + 1; with Karras' levels they round the clock, with
    # exponential ones they cut it off, so there our own clock must differ
    case("dpmpp_2m", None, DPMSolverMultistepScheduler, "trailing", "trailing", **DPM),
    case("dpmpp_2m", None, DPMSolverMultistepScheduler, "linspace", None, **DPM),
    case("dpmpp_2m", None, DPMSolverMultistepScheduler, "leading", None, **DPM),
    case("dpmpp_2m", None, DPMSolverMultistepScheduler, "linspace", None, use_karras_sigmas=True, **DPM),
    case("dpmpp_2m", None, DPMSolverMultistepScheduler, "linspace", None, use_exponential_sigmas=True, **DPM),
]


def prepared(case, steps, target, **betas):
    peer = case.peer(**(betas or BETAS), **dict(case.options), prediction_type=PREDICTIONS[target])
    peer.set_timesteps(steps)
    return peer


def levels(peer):
    """Their noise levels, the last one 0, and the clock at each but the last."""
    if isinstance(peer, HeunDiscreteScheduler):  # lists every level but the ends twice, for its two questions
        return torch.cat([peer.sigmas[:1], peer.sigmas[1::2]]), torch.cat([peer.timesteps[:1], peer.timesteps[1::2]])
    if isinstance(peer, (DDIMScheduler, DDPMScheduler)):
        alphas = peer.alphas_cumprod[peer.timesteps].double()
        return torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)]).float(), peer.timesteps
    return peer.sigmas, peer.timesteps


def peer_trajectory(peer, start, eta):
    """Latents after every step, in our space."""
    sigmas, _ = levels(peer)
    vp = isinstance(peer, VARIANCE_PRESERVING)
    x = start / (1 + sigmas[0] ** 2).sqrt() if vp else start
    more = {} if isinstance(peer, (HeunDiscreteScheduler, DPMSolverMultistepScheduler)) else {"generator": None}
    if more:
        more["generator"] = torch.Generator().manual_seed(5)
    if isinstance(peer, DDIMScheduler):
        more["eta"] = eta
    latents = []
    for t in peer.timesteps:
        output = network(peer.scale_model_input(x, t), t.float().expand(len(x)))
        x = peer.step(output, t, x, **more).prev_sample
        latents.append(x)
    if isinstance(peer, HeunDiscreteScheduler):  # every second one is only Heun's guess
        latents = [*latents[1::2], latents[-1]]
    return [x * (1 + sigma**2).sqrt() if vp else x for x, sigma in zip(latents, sigmas[1:], strict=True)]


def our_trajectory(sampler, start, sigmas, eta, answer):
    """The same from our sampler, with the draws of the same generator."""
    generator = torch.Generator().manual_seed(5)
    noise = lambda s, t: torch.randn(SHAPE, generator=generator)  # noqa: E731
    driven = drive(sampling(sampler, start, sigmas, noise, eta), answer)
    first = {}
    while True:
        try:
            query, _ = next(driven)
            first.setdefault(query.index, query.x)
        except StopIteration as end:
            return [*(first[index] for index in range(1, len(sigmas) - 1)), end.value]


def worst(ours, theirs):
    """The largest difference of any step, as a share of that step's largest absolute value."""
    pairs = zip(ours, theirs, strict=True)
    return max(((mine - peer).abs().max() / peer.abs().max()).item() for mine, peer in pairs)


@pytest.mark.parametrize(("steps", "target"), [(10, "v"), (25, "eps")])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps(case, steps, target):
    peer = prepared(case, steps, target)
    sigmas, times = levels(peer)
    clock = dict(zip(sigmas.tolist(), times.tolist(), strict=False))
    row = Parametrisation(target, TABLE)

    def answer(query):
        # the network is told the peer's time for this sigma: theirs may be rounded, ours is never
        told = torch.full((len(query.x),), clock[query.sigma.item()])
        return Prediction(denoise(lambda x, t: network(x, told), row, query.x, query.sigma.expand(len(query.x))))

    start = randn(3, *SHAPE) * (1 + sigmas[0] ** 2).sqrt()
    ours = our_trajectory(case.sampler, start, sigmas, case.eta, answer)
    assert worst(ours, peer_trajectory(peer, start, case.eta)) <= LIMIT


def answer_of(target, table=TABLE):
    row = Parametrisation(target, table)
    return lambda query: Prediction(denoise(network, row, query.x, query.sigma.expand(len(query.x))))


@pytest.mark.parametrize(("steps", "target"), [(10, "v"), (25, "eps")])
@pytest.mark.parametrize("case", [case for case in CASES if case.schedule], ids=str)
def test_runs(case, steps, target):
    peer = prepared(case, steps, target)
    sigmas = schedule(case.schedule, TABLE, steps)
    assert torch.allclose(sigmas, levels(peer)[0], rtol=3e-5)  # their product of a thousand factors is in float32
    noise = randn(3, *SHAPE)
    ours = our_trajectory(case.sampler, noise * (1 + sigmas[0] ** 2).sqrt(), sigmas, case.eta, answer_of(target))
    theirs = peer_trajectory(peer, noise * (1 + levels(peer)[0][0] ** 2).sqrt(), case.eta)
    assert worst(ours, theirs) <= 2 * LIMIT


def test_ddpm_with_its_own_betas_and_200_steps():
    ddpm = case("ddpm", 1.0, DDPMScheduler, "trailing", "trailing", clip_sample=False, variance_type="fixed_small")
    peer = prepared(ddpm, 200, "eps", beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    table = NoiseTable(DDPM)
    sigmas, start = schedule("trailing", table, 200), randn(3, *SHAPE) * 157
    ours = our_trajectory("ddpm", start, sigmas, 1.0, answer_of("eps", table))
    assert worst(ours, peer_trajectory(peer, start, 1.0)) <= LIMIT


# Where they differ: the rows of the table in docs/samplers.md that a number can show


def test_ddim_of_stable_diffusion_stops_at_the_first_level():
    """set_alpha_to_one=False, as published: the last step goes to sigma 0.029, not to 0."""
    ddim = case("ddim", 0.0, DDIMScheduler, "leading", "leading", clip_sample=False, set_alpha_to_one=False)
    sigmas, start = schedule("leading", TABLE, 10), randn(3, *SHAPE) * 14
    theirs = peer_trajectory(prepared(ddim, 10, "eps"), start, 0.0)[-1]
    assert worst([run(euler(start, sigmas, None), answer_of("eps"))], [theirs]) > 1e-3
    sigmas[-1] = TABLE.sigmas[0]
    stopped = run(euler(start, sigmas, None), answer_of("eps")) / (1 + sigmas[-1] ** 2).sqrt()
    assert worst([stopped], [theirs]) <= LIMIT


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 10), ("trailing", 7)])
def test_ddim_of_diffusers_steps_beside_its_own_times(spacing, steps):
    """It steps to t - 1000 // steps and then asks at the next time of its list, without moving the latents."""
    ddim = case("ddim", 0.0, DDIMScheduler, spacing, None, clip_sample=False, set_alpha_to_one=True)
    peer = prepared(ddim, steps, "eps")
    sigmas, times = levels(peer)
    start = x = randn(3, *SHAPE) * (1 + sigmas[0] ** 2).sqrt()
    for t, (s, after) in zip(times.tolist(), pairwise(sigmas), strict=True):
        beside = t - 1000 // steps
        aim = TABLE.sigmas[beside].float() if beside >= 0 else torch.tensor(0.0)
        x = run(euler(x, torch.stack([s, aim]), None), answer_of("eps"))
        x = x / (1 + aim**2).sqrt() * (1 + after**2).sqrt()
    assert worst([x], [peer_trajectory(peer, start, 0.0)[-1]]) <= LIMIT
    assert worst([run(euler(start, sigmas, None), answer_of("eps"))], [x]) > 1e-2


# k-diffusion 0.1.1's own functions, run once in float64 on the denoiser below: it is not a dependency

LEVELS = torch.tensor([14.6, 8.0, 4.0, 1.7, 0.6, 0.15, 0.0], dtype=torch.float64)
K_DIFFUSION = {
    ("euler", None): [-0.101721341283, 0.329562615231, 0.567134836086, 0.637284417505],
    ("euler_ancestral", 1.0): [0.238414477615, 0.532946993664, 0.549638917396, 0.405252931978],
    ("euler_ancestral", 0.5): [-0.085814295072, 0.278488146341, 0.594299917549, 0.595782550401],
    ("heun", None): [0.185470620516, 0.471906970545, 0.579000398963, 0.627025756817],
    ("dpmpp_2m", None): [-0.032603338048, 0.377538611469, 0.567414643572, 0.632580866448],
}


@pytest.mark.parametrize(("sampler", "eta"), K_DIFFUSION)
def test_k_diffusion(sampler, eta):
    calls = iter(range(1, 7))

    def answer(query):
        x, s = query.x, query.sigma
        return Prediction((x / (1 + s) + 0.3).tanh() - 0.2 * (x / (1 + s**2).sqrt()).sin())

    def noise(s, t):
        return (torch.arange(4, dtype=torch.float64) * 1.7 + next(calls)).cos().reshape(1, 1, 2, 2)

    x = 14.6 * torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    final = run(sampling(sampler, x, LEVELS, noise, eta), answer)
    assert final.flatten().tolist() == pytest.approx(K_DIFFUSION[sampler, eta], abs=1e-11)
