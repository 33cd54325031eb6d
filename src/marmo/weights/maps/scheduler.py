"""How a model was trained, as diffusers' scheduler_config.json says it: what the network predicts, over which noise."""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from marmo.diffusion.denoiser import Target
from marmo.diffusion.noise import FLOW, STABLE_DIFFUSION, Betas

TARGETS: Mapping[str, Target] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
    "flow_prediction": "flow",
}
"""diffusers' names -> ours."""
MAX_LEVELS = 10_000
_FLOW: Mapping[str, object] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "flow_shift": 1.0,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
"""diffusers' schedulers for flows alone do not work in its pipelines for Stable Diffusion."""
DDPM_SCHEDULER: Mapping[str, object] = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
}
"""What diffusers' DDPMScheduler has where its file says nothing."""


def target_from_json(scheduler: Mapping[str, object]) -> Target:
    """What the network predicts; eps where nothing is said."""
    name = scheduler.get("prediction_type", "epsilon")
    if not isinstance(name, str) or name not in TARGETS:
        raise ValueError(f"prediction_type {name!r} is not known; the types are {', '.join(TARGETS)}")
    return TARGETS[name]


def betas_from_json(scheduler: Mapping[str, object]) -> Betas:
    """The noise levels; Stable Diffusion's where nothing is said."""
    if scheduler.get("prediction_type") == "flow_prediction":
        return FLOW
    zero_snr = bool(scheduler.get("rescale_betas_zero_snr"))
    if scheduler.get("trained_betas") is not None:
        return _given(scheduler["trained_betas"], zero_snr)
    start, end = scheduler.get("beta_start", STABLE_DIFFUSION.start), scheduler.get("beta_end", STABLE_DIFFUSION.end)
    levels = scheduler.get("num_train_timesteps", STABLE_DIFFUSION.num_levels)
    match scheduler.get("beta_schedule", "scaled_linear"), start, end, levels:
        case "scaled_linear", float(), float(), int() if 0 < start < end < 1 < levels <= MAX_LEVELS:
            return Betas(kind="scaled_linear", start=start, end=end, num_levels=levels, zero_snr=zero_snr)
        case "linear", float(), float(), int() if 0 < start < end < 1 < levels <= MAX_LEVELS:
            return Betas(kind="linear", start=start, end=end, num_levels=levels, zero_snr=zero_snr)
        case "squaredcos_cap_v2", _, _, int() if 1 < levels <= MAX_LEVELS:
            return Betas(kind="cosine", start=0.0, end=0.999, num_levels=levels, zero_snr=zero_snr)
        case _:
            raise ValueError(f"scheduler_config.json describes unknown noise levels: {dict(scheduler)}")


def scheduler_to_json(target: Target, betas: Betas) -> dict[str, object]:
    """The inverse of both: diffusers' DDIM, or for a flow its DPM-Solver; `ValueError` for a target of neither."""
    name = next((theirs for theirs, ours in TARGETS.items() if ours == target), None)
    if name is None:
        raise ValueError(f"no scheduler_config.json can say that a network predicts {target}")
    if target == "flow":
        return {**_FLOW, "num_train_timesteps": betas.num_levels}
    return {
        "_class_name": "DDIMScheduler",
        **_levels_to_json(betas),
        "clip_sample": False,
        "prediction_type": name,
        "rescale_betas_zero_snr": betas.zero_snr,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
        "trained_betas": list(betas.table) or None,
    }


def ddpm_to_json(betas: Betas) -> dict[str, object]:
    """The DDPMScheduler that paints with a network trained on these noise levels to predict eps."""
    return {"_class_name": "DDPMScheduler", **DDPM_SCHEDULER, **_levels_to_json(betas)}


def _levels_to_json(betas: Betas) -> dict[str, object]:
    """The noise levels as diffusers' schedulers have them; a table of one's own goes over what `beta_schedule` says."""
    kinds = {"cosine": "squaredcos_cap_v2", "given": "linear"}
    ends = {} if betas.kind == "cosine" else {"beta_start": betas.start, "beta_end": betas.end}
    return {**ends, "beta_schedule": kinds.get(betas.kind, betas.kind), "num_train_timesteps": betas.num_levels}


def bound_from_json(scheduler: Mapping[str, object]) -> float | None:
    """What x0 is clipped to at every step, if it is; DDPM's schedulers do unless they say otherwise."""
    if not scheduler.get("clip_sample", True):
        return None
    bound = scheduler.get("clip_sample_range", 1.0)
    if not isinstance(bound, int | float) or not 0 < bound <= 1000:
        raise ValueError(f"clip_sample_range is {bound!r}; it must be a number above 0 and at most 1000")
    return float(bound)


def _given(values: object, zero_snr: bool) -> Betas:
    """A table of the model's own."""
    if not _is_table(values):
        raise ValueError(f"trained_betas must be 2 to {MAX_LEVELS} numbers above 0 and at most 1")
    return Betas(
        kind="given",
        start=values[0],
        end=values[-1],
        num_levels=len(values),
        table=tuple(values),
        zero_snr=zero_snr,
    )


def _is_table(values: object) -> TypeGuard[Sequence[float]]:
    return (
        _is_list(values)
        and 1 < len(values) <= MAX_LEVELS
        and all(isinstance(value, float) and 0 < value <= 1 for value in values)
    )


def _is_list(values: object) -> TypeGuard[Sequence[object]]:
    return isinstance(values, list)
