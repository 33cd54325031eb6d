"""A1111's `txt2img` and `img2img` bodies: which fields are read, and what is refused before anything else is looked at.

Fields that Marmo does not know are passed over, and neither repeated nor logged: clients send addresses and passwords
among them.
"""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from marmo.serve.dialects.bodies import refused
from marmo.solver_names import short

OFF: Mapping[str, tuple[tuple[object, ...], str]] = {
    "restore_faces": ((False,), "there is no face restoration here"),
    "firstphase_width": ((0,), "width is the first pass's here, and hr_resize_x the second's"),
    "firstphase_height": ((0,), "height is the first pass's here, and hr_resize_y the second's"),
    "seed_resize_from_w": ((0, -1), "noise is not resized here"),
    "seed_resize_from_h": ((0, -1), "noise is not resized here"),
    "s_churn": ((0,), "no sampler here adds churn"),
    "s_noise": ((1,), "no sampler here scales its fresh noise"),
    "s_min_uncond": ((0,), "the negative prompt is asked at every step here"),
    "initial_noise_multiplier": ((1,), "noise is not scaled here"),
    "infotext": ((), "infotext is not read here; send the fields"),
    "styles": (([],), "there are no styles here"),
}
"""A field -> the values that ask for nothing, and why others are refused; None and empty text ask for nothing, too."""


class Painting(BaseModel):
    """What both bodies share; A1111 takes null for every field."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())

    prompt: str | None = Field(default=None, max_length=100_000)
    negative_prompt: str | None = Field(default=None, max_length=100_000)
    styles: list[str] | None = None
    seed: int | None = None
    subseed: int | None = None
    subseed_strength: float | None = Field(default=None, ge=0, le=1)
    seed_resize_from_h: int | None = None
    seed_resize_from_w: int | None = None
    sampler_name: str | None = Field(default=None, max_length=100)
    sampler_index: str | None = Field(default=None, max_length=100)
    scheduler: str | None = Field(default=None, max_length=100)
    batch_size: int | None = Field(default=None, ge=1, le=64)
    n_iter: int | None = Field(default=None, ge=1, le=64)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    restore_faces: bool | None = None
    tiling: bool | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_noise: float | None = None
    s_min_uncond: float | None = None
    clip_skip: int | None = Field(default=None, ge=1, le=12)
    denoising_strength: float | None = None
    refiner_checkpoint: str | None = Field(default=None, max_length=200)
    refiner_switch_at: float | None = None
    infotext: str | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool | None = None
    script_name: str | None = None
    alwayson_scripts: dict[str, Any] | None = None
    send_images: bool | None = None
    save_images: bool | None = None


class Txt2Img(Painting):
    """The body of `txt2img`; without `enable_hr` the rest of its second pass means nothing."""

    enable_hr: bool | None = None
    hr_scale: float | None = None
    hr_upscaler: str | None = Field(default=None, max_length=200)
    hr_second_pass_steps: int | None = None
    hr_resize_x: int | None = None
    hr_resize_y: int | None = None
    hr_checkpoint_name: str | None = Field(default=None, max_length=200)
    hr_sampler_name: str | None = Field(default=None, max_length=100)
    hr_scheduler: str | None = Field(default=None, max_length=100)
    hr_prompt: str | None = Field(default=None, max_length=100_000)
    hr_negative_prompt: str | None = Field(default=None, max_length=100_000)
    firstphase_width: int | None = None
    firstphase_height: int | None = None


class Img2Img(Painting):
    """The body of `img2img`."""

    init_images: list[str] | None = None
    mask: str | None = None
    mask_blur: int | None = Field(default=None, ge=0, le=256)
    mask_blur_x: int | None = Field(default=None, ge=0, le=256)
    mask_blur_y: int | None = Field(default=None, ge=0, le=256)
    mask_round: bool | None = None
    inpainting_fill: int | None = Field(default=None, ge=0, le=3)
    inpaint_full_res: bool | None = None
    inpaint_full_res_padding: int | None = Field(default=None, ge=0, le=4096)
    inpainting_mask_invert: int | None = Field(default=None, ge=0, le=1)
    resize_mode: int | None = Field(default=None, ge=0, le=3)
    image_cfg_scale: float | None = None
    initial_noise_multiplier: float | None = None
    include_init_images: bool | None = None


def check_off(body: Painting) -> None:
    """`Problem` for what A1111 can do and Marmo cannot, where it is asked for."""
    for name, (values, why) in OFF.items():
        value: object = getattr(body, name, None)
        if value is not None and value != "" and value not in values:
            raise refused(f"{name}: {why}", name, "unsupported_parameter")


def check_scripts(body: Painting) -> None:
    """`Problem` for a script, which is other people's code; one that is switched off asks for nothing."""
    if body.script_name not in (None, "", "None"):
        raise refused(f"Script {short(body.script_name)} not found", "script_name", "unsupported_parameter", 422)
    for name, said in (body.alwayson_scripts or {}).items():
        if not _is_off(said):
            raise refused(f"always on script {short(name)} not found", "alwayson_scripts", "unsupported_parameter", 422)


def _is_off(script: object) -> bool:
    """No arguments, a first one that is false, or units of which none is enabled."""
    args = cast(Mapping[str, object], script).get("args") if isinstance(script, Mapping) else script
    if not isinstance(args, list) or not args:
        return not args
    units = cast(list[object], args)
    return units[0] is False or all(_is_disabled(unit) for unit in units)


def _is_disabled(unit: object) -> bool:
    return isinstance(unit, Mapping) and cast(Mapping[str, object], unit).get("enabled") is False
