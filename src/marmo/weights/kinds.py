"""Kinds of models, as data: where the networks of Stable Diffusion 1, 2, SDXL and their kin lie in files and folders.

Prefixes are those of the authors' configs: v1-inference.yaml (CompVis/stable-diffusion), v2-inference.yaml
(Stability-AI/stablediffusion), sd_xl_base.yaml and sd_xl_refiner.yaml (Stability-AI/generative-models).
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from marmo.diffusion.denoiser import Target
from marmo.models.clip_text import ClipTextConfig
from marmo.models.latent_upscaler import LatentUpscalerConfig
from marmo.models.unet import UNetConfig
from marmo.models.vae import VAEConfig
from marmo.weights.forms import Family, Json, Network, NetworkConfig

Slot = Network | Literal["text2"]
"""What a network is to its model.  `text2` is SDXL's second text encoder, which is the only one of its refiner."""


DenoiserConfig = UNetConfig | LatentUpscalerConfig
"""Of what can stand in a model's `unet`."""
Task = Literal["paint", "inpaint", "edit", "upscale", "upscale_latents"]
"""From words alone; what a mask marks (beside the latents a mask and the masked picture's latents); a whole picture as
it is told to (beside them the picture's latents, Brooks et al. 2023); a larger one (beside them the small picture, or
its latents)."""
PIPELINES: Mapping[Task, str] = {
    "paint": "Pipeline",
    "inpaint": "InpaintPipeline",
    "edit": "InstructPix2PixPipeline",
    "upscale": "UpscalePipeline",
    "upscale_latents": "LatentUpscalePipeline",
}
"""How the names of diffusers' pipelines for them end."""


def task_of(unet: DenoiserConfig, vae: VAEConfig) -> Task:
    """What a model was trained for, told by what its U-Net sees; `ValueError` for what we do not know."""
    if isinstance(unet, LatentUpscalerConfig):
        return _enlarging(unet, vae)
    tasks: Mapping[int, Task] = {
        vae.latent_channels: "paint",
        2 * vae.latent_channels + 1: "inpaint",
        2 * vae.latent_channels: "edit",
        vae.latent_channels + 3: "upscale",
    }
    if unet.in_channels not in tasks or unet.out_channels != vae.latent_channels:
        raise ValueError(
            f"its unet turns {unet.in_channels} channels into {unet.out_channels}, and latents have "
            f"{vae.latent_channels}; Marmo knows models that see latents alone, with a mask and a masked picture, or "
            "with a picture"
        )
    return tasks[unet.in_channels]


def _enlarging(unet: LatentUpscalerConfig, vae: VAEConfig) -> Task:
    if (unet.in_channels, unet.out_channels) != (2 * vae.latent_channels, vae.latent_channels + 1):
        raise ValueError(
            f"its unet turns {unet.in_channels} channels into {unet.out_channels}, and latents have "
            f"{vae.latent_channels}; a latent upscaler sees them twice and gives them with one channel more"
        )
    return "upscale_latents"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one network of a model lies."""

    prefix: str
    """Before its tensors in a single file."""
    names: Family = "original"
    """Whose names follow the prefix."""
    folder: str
    """Its folder in diffusers' layout."""
    network: Network | None = None
    """What it is, if not what its slot says."""
    peer: tuple[str, str]
    """The library and class that open that folder."""
    tokenizer: str | None = None
    """The folder of its tokenizer, for a text encoder."""
    pad: int | None = None
    """The token that fills its prompts up; none is the tokenizer's end."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of models whose files look alike."""

    name: str
    title: str
    marks: tuple[str, ...]
    """Tensors that every single file of this kind has, and no single file of the kinds after it in the list."""
    places: Mapping[Slot, Place]
    latent_scale: float
    """Of its autoencoder; a single file does not say it."""
    side: int = 512
    """Pixels along the side of the pictures that it was trained with."""
    v_side: int | None = None
    """The same of those models of the kind that predict v, where they are others."""
    cuts_text: bool = False
    """Whether its folders leave out the last layer of the text encoder, since the model reads the one before."""
    index: Json
    """Of a folder's model_index.json, what is not in `places`."""
    scheduler: Json
    """A folder's scheduler_config.json."""
    target: Target | None = None
    """What its U-Net predicts, whatever the scheduler says; none is what that says."""

    def side_for(self, prediction: object) -> int:
        """Pixels along the side, by diffusers' `prediction_type`."""
        return self.v_side if prediction == "v_prediction" and self.v_side is not None else self.side

    def single_config(self, config: NetworkConfig) -> NetworkConfig:
        """A network's config, read from names and shapes, with what this kind's single files leave unsaid."""
        return replace(config, latent_scale=self.latent_scale) if isinstance(config, VAEConfig) else config

    def folder_config(self, config: NetworkConfig) -> NetworkConfig:
        """A network's config, read from a config.json, with what this kind's folders leave unsaid."""
        if self.cuts_text and isinstance(config, ClipTextConfig):
            return replace(config, num_layers=config.num_layers + 1, num_cut=1)
        return config

    def for_folder(self, config: NetworkConfig) -> NetworkConfig:
        """The config of the part of a network that a folder holds: the inverse of `folder_config`, unless it cuts."""
        if self.cuts_text and isinstance(config, ClipTextConfig) and not config.num_cut:
            return replace(config, num_cut=1, embed_width=None)
        return config


_TEXT = ("transformers", "CLIPTextModel")
_PROJECTED = ("transformers", "CLIPTextModelWithProjection")
_UNET_AND_VAE: Mapping[Slot, Place] = {
    "unet": Place(prefix="model.diffusion_model.", folder="unet", peer=("diffusers", "UNet2DConditionModel")),
    "vae": Place(prefix="first_stage_model.", folder="vae", peer=("diffusers", "AutoencoderKL")),
}
_NOTHING = [None, None]
_STABLE_DIFFUSION: Json = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": _NOTHING,
    "requires_safety_checker": False,
    "safety_checker": _NOTHING,
}
_LEVELS: Json = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}

SD1 = Kind(
    name="sd1",
    title="Stable Diffusion 1",
    marks=(),
    places={
        "text": Place(
            prefix="cond_stage_model.transformer.",
            folder="text_encoder",
            peer=_TEXT,
            tokenizer="tokenizer",
        ),
        **_UNET_AND_VAE,
    },
    latent_scale=0.18215,
    index=_STABLE_DIFFUSION,
    scheduler={"_class_name": "PNDMScheduler", **_LEVELS},
)
SD2 = Kind(
    name="sd2",
    title="Stable Diffusion 2",
    marks=("cond_stage_model.model.ln_final.weight",),
    places={
        "text": Place(
            prefix="cond_stage_model.model.",
            names="openclip",
            folder="text_encoder",
            peer=_TEXT,
            tokenizer="tokenizer",
            pad=0,
        ),
        **_UNET_AND_VAE,
    },
    latent_scale=0.18215,
    v_side=768,
    cuts_text=True,
    index=_STABLE_DIFFUSION,
    scheduler={"_class_name": "DDIMScheduler", **_LEVELS},
)
SD2_TURBO = replace(
    SD2,
    marks=("conditioner.embedders.0.model.ln_final.weight",),
    places={**SD2.places, "text": replace(SD2.places["text"], prefix="conditioner.embedders.0.model.")},
)
"""As sd-turbo's single file has it: the networks of Stable Diffusion 2 under SDXL's names."""
_TEXT2 = Place(
    prefix="conditioner.embedders.1.model.",
    names="openclip",
    folder="text_encoder_2",
    peer=_PROJECTED,
    tokenizer="tokenizer_2",
    pad=0,
)
SDXL = Kind(
    name="sdxl",
    title="SDXL",
    marks=("conditioner.embedders.1.model.ln_final.weight",),
    places={
        "text": replace(SD1.places["text"], prefix="conditioner.embedders.0.transformer."),
        "text2": _TEXT2,
        **_UNET_AND_VAE,
    },
    latent_scale=0.13025,
    side=1024,
    index={
        "_class_name": "StableDiffusionXLPipeline",
        "feature_extractor": _NOTHING,
        "force_zeros_for_empty_prompt": True,
        "image_encoder": _NOTHING,
    },
    scheduler={
        "_class_name": "EulerDiscreteScheduler",
        **_LEVELS,
        "interpolation_type": "linear",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
)
SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    title="SDXL's refiner",
    marks=("conditioner.embedders.0.model.ln_final.weight", "model.diffusion_model.label_emb.0.0.weight"),
    places={"text2": replace(_TEXT2, prefix="conditioner.embedders.0.model."), **_UNET_AND_VAE},
    index={
        **SDXL.index,
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
        "text_encoder": _NOTHING,
        "tokenizer": _NOTHING,
    },
)

UPSCALER_LEVELS = {"beta_start": 0.0001, "beta_end": 0.02}
SD_X4 = replace(
    SD2,
    name="sd-x4",
    title="Stable Diffusion's x4 upscaler",
    marks=("model.diffusion_model.label_emb.weight",),
    latent_scale=0.08333,
    v_side=None,
    index={"low_res_scheduler": ["diffusers", "DDPMScheduler"], "max_noise_level": 350},
    scheduler={**SD2.scheduler, **UPSCALER_LEVELS, "prediction_type": "v_prediction"},
)
"""x4-upscaling.yaml (Stability-AI/stablediffusion)."""

SD_X2 = replace(
    SD1,
    name="sd-x2",
    title="Stable Diffusion's latent x2 upscaler",
    places={**SD1.places, "unet": replace(SD1.places["unet"], network="latent_upscaler")},
    side=1024,
    index={},
    scheduler={
        "_class_name": "EulerDiscreteScheduler",
        **{name: _LEVELS[name] for name in ("beta_end", "beta_schedule", "beta_start", "num_train_timesteps")},
        "interpolation_type": "log_linear",
        "prediction_type": "original_sample",
        "trained_betas": None,
    },
    target="edm",  # the pipeline makes x0 of it before the scheduler sees it
)
"""sd-x2-latent-upscaler: a folder alone; what its authors' own file holds is a U-Net in a pickle."""

KINDS = (SDXL, SDXL_REFINER, SD2_TURBO, SD_X4, SD2, SD1)
"""Of single files."""


def kind_of_names(names: Container[str]) -> Kind:
    """The kind of a single file."""
    return next(kind for kind in KINDS if all(mark in names for mark in kind.marks))
