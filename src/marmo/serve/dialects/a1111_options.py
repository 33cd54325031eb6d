"""A1111's options: the settings that stay between two requests, and that `override_settings` changes for one.

Clients read the whole object, change one value and post all of it back.  So a value that is the same does nothing, a
key that Marmo does not know is passed over and kept nowhere, and a key that would change pictures in a way that cannot
be had is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from marmo.request import ImageRequest
from marmo.serve.contract import Model
from marmo.serve.dialects.bodies import default_model, find_model, read_body, refused, title
from marmo.solver_names import ETA, NoiseSourceName, SamplerName, short

NoiseName = Literal["GPU", "CPU", "NV"]
NOISE_SOURCES: Mapping[NoiseName, NoiseSourceName] = {"GPU": "philox", "CPU": "torch-cpu", "NV": "philox"}

Value = TypeVar("Value")

FIXED: Mapping[str, tuple[object, ...]] = {
    "sd_vae": ("Automatic", "None"),
    "sd_unet": ("Automatic", "None"),
    "sd_hypernetwork": ("None",),
    "face_restoration": (False,),
    "emphasis": ("Original",),
    "eta_noise_seed_delta": (0,),
    "initial_noise_multiplier": (1,),
    "inpainting_mask_weight": (1,),
    "img2img_color_correction": (False,),
    "img2img_extra_noise": (0,),
    "img2img_fix_steps": (False,),
    "k_sched_type": ("Automatic",),
    "sigma_min": (0,),
    "sigma_max": (0,),
    "rho": (0,),
    "s_churn": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "skip_early_cond": (0,),
    "token_merging_ratio": (0,),
    "token_merging_ratio_img2img": (0,),
    "sd_noise_schedule": ("Default",),
    "use_downcasted_alpha_bar": (False,),
    "use_old_emphasis_implementation": (False,),
    "use_old_karras_scheduler_sigmas": (False,),
    "use_old_scheduling": (False,),
    "refiner_switch_by_sample_steps": (False,),
}
"""What decides pictures in A1111 and can have only these values here; the first is shown."""


class Values(BaseModel):
    """The options that act."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    sd_model_checkpoint: str | None = None
    CLIP_stop_at_last_layers: int | None = Field(default=None, ge=1, le=12)
    randn_source: NoiseName | None = None
    eta_ancestral: float | None = Field(default=None, ge=0, le=1)
    eta_ddim: float | None = Field(default=None, ge=0, le=1)
    sgm_noise_multiplier: bool | None = None
    always_discard_next_to_last_sigma: bool | None = None
    tiling: bool | None = None


@dataclass(frozen=True)
class Options:
    """One caller's settings."""

    model: str | None = None
    """An id of the catalogue; None is its first model."""
    clip_skip: int = 1
    noise: NoiseName = "GPU"
    eta_ancestral: float = 1.0
    eta_ddim: float = 0.0
    centred: bool = False
    """Whether pure noise has unit variance at the start, as in diffusers (A1111's sgm_noise_multiplier)."""
    discard: bool = False
    """Whether every sampler leaves out the last noise level above 0."""
    tiling: bool = False
    """Whether opposite edges fit together where a body does not say."""

    def updated(self, values: Mapping[str, object], models: Sequence[Model], field: str = "") -> "Options":
        """With these values; `Problem` for one that cannot be had.  `field` goes before the names in its sentence."""
        _check_fixed(values, field)
        new = read_body(Values, dict(values))
        name = new.sd_model_checkpoint
        return Options(
            model=find_model(name, models, f"{field}sd_model_checkpoint").id if name else self.model,
            clip_skip=_or(new.CLIP_stop_at_last_layers, self.clip_skip),
            noise=new.randn_source or self.noise,
            eta_ancestral=_or(new.eta_ancestral, self.eta_ancestral),
            eta_ddim=_or(new.eta_ddim, self.eta_ddim),
            centred=_or(new.sgm_noise_multiplier, self.centred),
            discard=_or(new.always_discard_next_to_last_sigma, self.discard),
            tiling=_or(new.tiling, self.tiling),
        )

    def chosen(self, models: Sequence[Model]) -> Model:
        """The model to paint with: the one that was set, while it exists, else the catalogue's first."""
        return next((model for model in models if model.id == self.model), None) or default_model(models)

    def with_model(self, model: Model) -> "Options":
        """With another model."""
        return replace(self, model=model.id)

    def eta(self, sampler: SamplerName) -> float | None:
        """What this sampler gets where a body says none; None is the sampler's own."""
        if sampler not in ETA:
            return None
        eta, usual = (self.eta_ddim, 0.0) if sampler == "ddim" else (self.eta_ancestral, 1.0)
        return None if eta == usual else eta

    def shown(self, models: Sequence[Model]) -> dict[str, object]:
        """The whole object."""
        model = self.chosen(models)
        return {
            "sd_model_checkpoint": title(model),
            "sd_checkpoint_hash": model.sha256,
            "CLIP_stop_at_last_layers": self.clip_skip,
            "randn_source": self.noise,
            "eta_ancestral": self.eta_ancestral,
            "eta_ddim": self.eta_ddim,
            "sgm_noise_multiplier": self.centred,
            "always_discard_next_to_last_sigma": self.discard,
            "tiling": self.tiling,
            "samples_format": "png",
            **{name: values[0] for name, values in FIXED.items()},
        }


def acting(values: Mapping[str, object]) -> dict[str, object]:
    """Only what acts, to show it to its sender: nothing that we do not know is ever repeated."""
    return {name: value for name, value in values.items() if name in Values.model_fields}


def clip_skip(options: Options) -> int | None:
    """1 is A1111's default and means the model's own layer."""
    return None if options.clip_skip == 1 else options.clip_skip


def for_model(fields: Mapping[str, object], model: Model) -> dict[str, object]:
    """Without those of A1111's constants that mean nothing to a model of this family."""
    assert fields.keys() <= ImageRequest.model_fields.keys(), "a constant must be a field of the request"
    return {name: value for name, value in fields.items() if name not in model.defaults.unused}


def _check_fixed(values: Mapping[str, object], field: str) -> None:
    for name, allowed in FIXED.items():
        value = values.get(name)
        if value is None or value == "" or value in allowed:
            continue
        names = " or ".join(str(item) for item in allowed)
        raise refused(f"{field}{name} can only be {names} here, not {short(value)}", f"{field}{name}")


def _or(new: Value | None, old: Value) -> Value:
    return old if new is None else new
