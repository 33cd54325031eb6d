"""What A1111's clients list before they paint: models, samplers, schedules, and the many lists that are empty here."""

from collections.abc import Mapping, Sequence

from marmo.files.infotext import ENLARGERS
from marmo.serve.contract import Model
from marmo.serve.dialects.a1111_extras import upscaler_names
from marmo.serve.dialects.bodies import SHORT_HASH, title
from marmo.solver_names import A1111_DISCARDS, SAMPLERS, SCHEDULES, SamplerName, ScheduleName

RHO: Mapping[ScheduleName, float] = {"karras": 7.0, "polyexponential": 1.0}
SECOND_ORDER: frozenset[SamplerName] = frozenset(
    {"heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "restart"}
)
"""Samplers that ask the network twice a step."""


def sd_models(models: Sequence[Model]) -> list[dict[str, object]]:
    """`GET sd-models`.  There is a file name because clients look for one; it is the id, not a path."""
    return [
        {
            "title": title(model),
            "model_name": model.id,
            "hash": model.sha256[:SHORT_HASH],
            "sha256": model.sha256,
            "filename": model.id,
            "config": None,
        }
        for model in models
    ]


def samplers() -> list[dict[str, object]]:
    """`GET samplers`, in A1111's spelling."""
    return [
        {"name": peers.label, "aliases": [name, *peers.others], "options": _sampler_options(name)}
        for name, peers in SAMPLERS.items()
    ]


def _sampler_options(name: SamplerName) -> dict[str, str]:
    """A1111 gives text, and only what is not the usual."""
    options: dict[str, str] = {}
    if SAMPLERS[name].automatic != "normal":
        options["scheduler"] = scheduler_name(SAMPLERS[name].automatic)
    if name in A1111_DISCARDS:
        options["discard_next_to_last_sigma"] = "True"
    if name in SECOND_ORDER:
        options["second_order"] = "True"
    return options


def scheduler_name(schedule: ScheduleName) -> str:
    """A1111's short name, such as sgm_uniform; its label is what infotext holds."""
    return SCHEDULES[schedule][0].lower().replace(" ", "_")


def schedulers() -> list[dict[str, object]]:
    """`GET schedulers`: the choice of each sampler, then every schedule."""
    automatic = {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0}
    listed = [
        {
            "name": scheduler_name(name),
            "label": words[0],
            "aliases": [name, *words[1:]],
            "default_rho": RHO.get(name, -1.0),
        }
        for name, words in SCHEDULES.items()
    ]
    return [{**item, "need_inner_model": False} for item in (automatic, *listed)]


def upscalers(models: Sequence[Model]) -> list[dict[str, object]]:
    """`GET upscalers`: what enlarges pixels; before a second pass A1111's "None" does it as Lanczos."""
    nowhere: dict[str, object] = {"model_name": None, "model_path": None, "model_url": None}
    names = upscaler_names(models)
    networks = [{"name": names[model.id], **nowhere, "scale": float(model.defaults.grows)} for model in models]
    return [{"name": "None", **nowhere, "scale": 4.0}, *networks]


def latent_upscale_modes() -> list[dict[str, object]]:
    """`GET latent-upscale-modes`: what enlarges latents before a second pass, the default first."""
    return [{"name": name} for ours, name in ENLARGERS.items() if ours != "lanczos"]
