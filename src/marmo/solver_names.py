"""The names of samplers, schedules and noise sources: ours, and those that other programs and people write.

Ours are the names of ComfyUI where it has them.  This module imports no torch.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Literal, NamedTuple, get_args

SamplerName = Literal[
    "euler",
    "euler_ancestral",
    "ddim",
    "ddpm",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "plms",
    "deis",
    "unipc",
    "unipc_bh2",
    "dpmpp_2m",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "restart",
    "lcm",
    "tcd",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
]
ScheduleName = Literal[
    "normal",
    "karras",
    "exponential",
    "polyexponential",
    "simple",
    "sgm_uniform",
    "trailing",
    "leading",
    "linspace",
    "ddim_uniform",
    "beta",
    "beta_times",
    "kl_optimal",
    "align_your_steps",
    "align_your_steps_sdxl",
]
NoiseSourceName = Literal["torch-cpu", "philox", "comfy"]

# The amount of fresh noise that a sampler adds by default; a sampler that is not listed takes no `eta`.
ETA: Mapping[SamplerName, float] = {
    "euler_ancestral": 1.0,
    "ddim": 0.0,
    "ddpm": 1.0,
    "dpm_2_ancestral": 1.0,
    "dpmpp_2s_ancestral": 1.0,
    "dpmpp_sde": 1.0,
    "dpmpp_2m_sde": 1.0,
    "dpmpp_2m_sde_heun": 1.0,
    "dpmpp_3m_sde": 1.0,
    "tcd": 0.3,
    "euler_ancestral_cfg_pp": 1.0,
}


class Peers(NamedTuple):
    """What others call one of our samplers."""

    label: str
    """A1111's, as its infotext has it; Forge's or our own where A1111 has none."""
    others: tuple[str, ...] = ()
    """Further spellings: ComfyUI, InvokeAI, diffusers' classes."""
    automatic: ScheduleName = "normal"
    """What A1111's schedule type "Automatic" means for it."""


SAMPLERS: Mapping[SamplerName, Peers] = {
    "euler": Peers("Euler", ("k_euler", "EulerDiscreteScheduler")),
    "euler_ancestral": Peers("Euler a", ("k_euler_a", "EulerAncestralDiscreteScheduler")),
    "ddim": Peers("DDIM", ("DDIMScheduler",), "ddim_uniform"),
    "ddpm": Peers("DDPM", ("DDPMScheduler",)),
    "heun": Peers("Heun", ("k_heun", "HeunDiscreteScheduler")),
    "dpm_2": Peers("DPM2", ("k_dpm_2", "kdpm_2", "KDPM2DiscreteScheduler"), "karras"),
    "dpm_2_ancestral": Peers(
        "DPM2 a", ("k_dpm_2_a", "k_dpm_2_ancestral", "kdpm_2_a", "KDPM2AncestralDiscreteScheduler"), "karras"
    ),
    "lms": Peers("LMS", ("k_lms", "LMSDiscreteScheduler")),
    "plms": Peers("PLMS", ("pndm", "PNDMScheduler"), "ddim_uniform"),
    "deis": Peers("DEIS", ("DEISMultistepScheduler",)),
    "unipc": Peers("UniPC", ("uni_pc",), "sgm_uniform"),
    "unipc_bh2": Peers("UniPC bh2", ("uni_pc_bh2", "UniPCMultistepScheduler")),
    "dpmpp_2m": Peers("DPM++ 2M", ("k_dpmpp_2m", "DPMSolverMultistepScheduler"), "karras"),
    "dpmpp_2s_ancestral": Peers("DPM++ 2S a", ("k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"), "karras"),
    "dpmpp_sde": Peers("DPM++ SDE", ("k_dpmpp_sde", "dpmpp_sde_gpu", "DPMSolverSDEScheduler"), "karras"),
    "dpmpp_2m_sde": Peers("DPM++ 2M SDE", ("k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), "exponential"),
    "dpmpp_2m_sde_heun": Peers("DPM++ 2M SDE Heun", ("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"), "exponential"),
    "dpmpp_3m_sde": Peers("DPM++ 3M SDE", ("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"), "exponential"),
    "restart": Peers("Restart", (), "karras"),
    "lcm": Peers("LCM", ("k_lcm", "LCMScheduler")),
    "tcd": Peers("TCD", ("TCDScheduler",)),
    "euler_cfg_pp": Peers("Euler CFG++", ("DDIM CFG++", "ddim_cfgpp"), "ddim_uniform"),
    "euler_ancestral_cfg_pp": Peers("Euler a CFG++"),
    "dpmpp_2m_cfg_pp": Peers("DPM++ 2M CFG++"),
}

# Ours -> A1111's label, then further spellings.  The first of two schedules with one spelling has it.
SCHEDULES: Mapping[ScheduleName, tuple[str, ...]] = {
    "normal": ("Uniform", "normal"),
    "karras": ("Karras",),
    "exponential": ("Exponential",),
    "polyexponential": ("Polyexponential",),
    "simple": ("Simple",),
    "sgm_uniform": ("SGM Uniform",),
    "trailing": ("Trailing", "Turbo"),
    "leading": ("Leading",),
    "linspace": ("Linspace",),
    "ddim_uniform": ("DDIM",),
    "beta": ("Beta",),
    "beta_times": ("Beta times",),
    "kl_optimal": ("KL Optimal",),
    "align_your_steps": ("Align Your Steps", "ays"),
    "align_your_steps_sdxl": ("Align Your Steps SDXL", "ays_sdxl"),
}
NOISE_SOURCES: Mapping[NoiseSourceName, str] = {"torch-cpu": "CPU", "philox": "NV", "comfy": "Comfy"}
"""Ours -> A1111's.  Its "GPU", which an infotext without a source means, is the card itself: `philox` equals it while a
draw has no more elements than the card runs threads (docs/samplers.md)."""

A1111_DISCARDS: frozenset[SamplerName] = frozenset({"dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde"})
COMFYUI_DISCARDS: frozenset[SamplerName] = frozenset({"dpm_2", "dpm_2_ancestral", "unipc", "unipc_bh2"})
"""For which samplers those programs always set what is `discard_penultimate` in a request."""


class Solver(NamedTuple):
    """A sampler and, if the name said one, its schedule."""

    sampler: SamplerName
    schedule: ScheduleName | None = None


def read_solver(sampler: str, schedule: str | None = None) -> Solver:
    """What a name in any program's spelling means.

    `sampler` may hold the schedule, as in "DPM++ 2M Karras" or "euler_k".  `schedule` may be A1111's "Automatic".
    Raises `ValueError` for names that do not exist, and for two schedules that differ.
    """
    solver = _solvers().get(_plain(sampler))
    if solver is None:
        raise ValueError(unknown(sampler, get_args(SamplerName)))
    if schedule is None:
        return solver
    if _plain(schedule) == "automatic":
        named = solver.schedule or SAMPLERS[solver.sampler].automatic
    else:
        named = read_schedule(schedule)
    if solver.schedule not in (None, named):
        raise ValueError(f"{short(sampler)} already says the schedule {solver.schedule}; leave out {named}")
    return Solver(solver.sampler, named)


def exist(sampler: str, schedule: str | None = None) -> bool:
    """Whether `read_solver` knows both names."""
    known = {**_schedules(), "automatic": None}
    return _plain(sampler) in _solvers() and (schedule is None or _plain(schedule) in known)


def read_schedule(name: str) -> ScheduleName:
    """The schedule of a name in any program's spelling; `ValueError` for one that does not exist."""
    schedule = _schedules().get(_plain(name))
    if schedule is None:
        raise ValueError(unknown(name, get_args(ScheduleName)))
    return schedule


def unknown(value: object, allowed: tuple[str, ...]) -> str:
    """A sentence that refuses a name, with the nearest ones that exist."""
    near = get_close_matches(str(value).lower().replace("+", "p").replace(" ", "_"), allowed, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{short(value)} does not exist; {hint}the names are {', '.join(allowed)}"


def short(value: object) -> str:
    """A value inside a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(name: str) -> str:
    """Letters and digits: case, spaces and underscores never matter."""
    return re.sub(r"[^a-z0-9]", "", name[:100].lower().replace("+", "p"))


@cache
def _schedules() -> Mapping[str, ScheduleName]:
    return {_plain(word): name for name, words in SCHEDULES.items() for word in (name, *words)}


@cache
def _solvers() -> Mapping[str, Solver]:
    """Every spelling of a sampler, alone and followed by a schedule's; InvokeAI and A1111's API shorten Karras."""
    solvers: dict[str, Solver] = {}
    shortened: Mapping[str, ScheduleName] = {"k": "karras", "ka": "karras", "exp": "exponential"}
    endings: Mapping[str, ScheduleName] = {**_schedules(), **shortened}
    for name, peers in SAMPLERS.items():
        for word in (name, peers.label, *peers.others):
            solvers[_plain(word)] = Solver(name)
            if not word.endswith("Scheduler"):
                solvers |= {_plain(word) + ending: Solver(name, schedule) for ending, schedule in endings.items()}
    return solvers
