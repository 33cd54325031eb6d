"""Samplers: plain generators that only ask.

A sampler yields `Query(x, sigma, index)`, is sent a `Prediction` and returns the final x.  It calls no network, draws
no random number of its own and reports to no one; whoever drives it does.  `run` drives one, a server many at once.

Everything is in x = x0 + sigma * noise.  Where the method allows it a solver is written with x0 and the ratio of two
sigmas (exponential form), which stays finite from any start; the others, in raw sigma, refuse a start at the cap.

Shapes: x B C H W, float32; sigmas S + 1, on the CPU, falling, the last one 0.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from marmo.diffusion.samplers.cfgpp import dpmpp_2m_cfg_pp, euler_cfg_pp
from marmo.diffusion.samplers.consistency import lcm, tcd
from marmo.diffusion.samplers.contract import (
    Answer,
    Clock,
    Noise,
    Prediction,
    Query,
    Sampling,
    drive,
    run,
    walk,
)
from marmo.diffusion.samplers.euler import euler
from marmo.diffusion.samplers.multistep import deis, dpmpp_2m, lms, plms
from marmo.diffusion.samplers.restart import restart
from marmo.diffusion.samplers.sde import dpmpp_2m_sde, dpmpp_2m_sde_heun, dpmpp_3m_sde, dpmpp_sde
from marmo.diffusion.samplers.singlestep import dpm_2, dpm_2_ancestral, dpmpp_2s_ancestral, heun
from marmo.diffusion.samplers.unipc import unipc, unipc_bh2

__all__ = [
    "ASK_TWICE", "BROWNIAN", "CFG_PP", "DETERMINISTIC", "NOISY", "WITH_ETA", "Answer", "Clock", "Noise", "Prediction",
    "Query", "Sampling", "deis", "dpm_2", "dpm_2_ancestral", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun", "dpmpp_2s_ancestral", "dpmpp_3m_sde", "dpmpp_sde", "drive", "euler", "euler_cfg_pp", "heun",
    "lcm", "lms", "plms", "restart", "run", "sampling", "tcd", "unipc", "unipc_bh2", "walk",
]  # fmt: skip

DETERMINISTIC: Mapping[str, Callable[[Tensor, Tensor], Sampling]] = {
    "euler": euler,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpmpp_2m": dpmpp_2m,
    "lms": lms,
    "plms": plms,
    "deis": deis,
    "unipc": unipc,
    "unipc_bh2": unipc_bh2,
    "euler_cfg_pp": euler_cfg_pp,
    "dpmpp_2m_cfg_pp": dpmpp_2m_cfg_pp,
}

WITH_ETA: Mapping[str, Callable[[Tensor, Tensor, Noise, float], Sampling]] = {
    "euler_ancestral": euler,
    "ddim": euler,
    "ddpm": euler,
    "dpm_2_ancestral": dpm_2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2m_sde_heun": dpmpp_2m_sde_heun,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "euler_ancestral_cfg_pp": euler_cfg_pp,
}

NOISY: Mapping[str, Callable[[Tensor, Tensor, Noise], Sampling]] = {"lcm": lcm, "restart": restart}

BROWNIAN = frozenset({"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"})
"""Those whose noise is the increment of a path."""

ASK_TWICE = frozenset({"heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "restart"})
"""Those with two questions in every step but the last."""

CFG_PP = frozenset({"euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp"})
"""Those that need the unconditional answer, at a guidance scale of 1 too."""


def sampling(
    name: str, x: Tensor, sigmas: Tensor, noise: Noise, eta: float | None, clock: Clock | None = None
) -> Sampling:
    """The named sampler over these noise levels; `eta` for the ones that take it, the model's `clock` for tcd."""
    if name in DETERMINISTIC:
        return DETERMINISTIC[name](x, sigmas)
    if name in NOISY:
        return NOISY[name](x, sigmas, noise)
    if name not in WITH_ETA and name != "tcd":
        raise ValueError(f"there is no sampler {name!r}")
    assert eta is not None, f"{name} needs an eta; the request's resolve() fills it in"
    if name in WITH_ETA:
        return WITH_ETA[name](x, sigmas, noise, eta)
    if clock is None:
        raise ValueError("tcd counts in the model's own time, and this model has no table of it; use lcm")
    return tcd(x, sigmas, noise, eta, clock)
