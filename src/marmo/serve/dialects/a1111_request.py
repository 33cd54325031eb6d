"""A1111's `txt2img` and `img2img` as requests that paint what A1111 1.10 paints: its prompt syntax, start and noise.

What a body leaves out is the model's default, not A1111's 512 x 512 and 50 steps.  Fields that Marmo does not know are
passed over, and neither repeated nor logged: clients send addresses and passwords among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from marmo.request import ImageRequest
from marmo.serve.contract import Model
from marmo.serve.dialects.a1111_options import NOISE_SOURCES, Options, acting, clip_skip, for_model
from marmo.serve.dialects.bodies import as_request, find_model, read_body, read_picture, refused
from marmo.solver_names import A1111_DISCARDS, ETA, SamplerName, ScheduleName, read_schedule, read_solver, short

FIELD_NAMES: Mapping[str, str] = {
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "num_images": "batch_size x n_iter",
    "init_image": "init_images",
    "variation.strength": "subseed_strength",
    "variation.seed": "subseed",
    "refiner.model": "refiner_checkpoint",
    "refiner.switch": "refiner_switch_at",
}

OFF: Mapping[str, tuple[tuple[object, ...], str]] = {
    "restore_faces": ((False,), "there is no face restoration here"),
    "tiling": ((False,), "seamless pictures are not painted here yet"),
    "enable_hr": ((False,), "there is no second pass at a higher resolution here yet"),
    "firstphase_width": ((0,), "there is no second pass at a higher resolution here yet"),
    "firstphase_height": ((0,), "there is no second pass at a higher resolution here yet"),
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
    firstphase_width: int | None = None
    firstphase_height: int | None = None


class Img2Img(Painting):
    """The body of `img2img`."""

    init_images: list[str] | None = None
    mask: str | None = None
    resize_mode: int | None = Field(default=None, ge=0, le=3)
    initial_noise_multiplier: float | None = None
    include_init_images: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request, and how its answer shall look."""

    request: ImageRequest
    model: Model
    batch_size: int
    send_images: bool
    parameters: Mapping[str, object]
    """The body's own fields as they were read, to be sent back."""
    options: Options
    """The caller's settings afterwards."""


def read_txt2img(body: object, options: Options, models: Sequence[Model]) -> Wanted:
    """The body of `txt2img`; `Problem` for what cannot be done."""
    return _wanted(read_body(Txt2Img, body), options, models, {}, frozenset())


def read_img2img(body: object, options: Options, models: Sequence[Model]) -> Wanted:
    """The body of `img2img`; `Problem` for what cannot be done."""
    read = read_body(Img2Img, body)
    if not read.init_images or len(read.init_images) != 1:
        raise refused(f"init_images must hold one picture, not {len(read.init_images or [])}", "init_images")
    if read.mask:
        raise refused("mask: this server cannot keep to a mask yet", "mask")
    if read.resize_mode == 3:
        raise refused("resize_mode must be 0: latents are not resized here", "resize_mode")
    pictures = {
        "init_image": read_picture(read.init_images[0], "init_images"),
        "strength": 0.75 if read.denoising_strength is None else read.denoising_strength,
    }
    hidden = frozenset[str]() if read.include_init_images else frozenset({"init_images", "mask"})
    return _wanted(read, options, models, pictures, hidden)


def _wanted(
    body: Painting, options: Options, models: Sequence[Model], pictures: Mapping[str, object], hidden: frozenset[str]
) -> Wanted:
    _check_off(body)
    _check_scripts(body)
    overridden = options.updated(_overrides(body), models, "override_settings.")
    model = overridden.chosen(models)
    fields = {
        "prompt": body.prompt or "",
        "negative_prompt": body.negative_prompt,
        "model": model.id,
        "width": body.width,
        "height": body.height,
        "steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "seed": _seed(body.seed),
        "num_images": (body.batch_size or 1) * (body.n_iter or 1),
        "clip_skip": clip_skip(overridden),
        "variation": _variation(body),
        "refiner": _refiner(body, models),
        **_solver(body, overridden, model),
        **_constants(overridden, model),
        **pictures,
    }
    keeps = body.override_settings_restore_afterwards is False
    return Wanted(
        request=as_request(fields, FIELD_NAMES),
        model=model,
        batch_size=body.batch_size or 1,
        send_images=body.send_images is not False,
        parameters=_shown(body, hidden),
        options=overridden if keeps else options,
    )


def _check_off(body: Painting) -> None:
    for name, (values, why) in OFF.items():
        value: object = getattr(body, name, None)
        if value is not None and value != "" and value not in values:
            raise refused(f"{name}: {why}", name, "unsupported_parameter")


def _check_scripts(body: Painting) -> None:
    """Scripts are other people's code; one that is switched off asks for nothing."""
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


def _overrides(body: Painting) -> dict[str, object]:
    """`clip_skip` is SD.Next's spelling of one of them."""
    values: dict[str, object] = {"CLIP_stop_at_last_layers": body.clip_skip}
    return {**values, **{name: value for name, value in (body.override_settings or {}).items() if value is not None}}


def _seed(seed: int | None) -> int | None:
    """-1 is a random one."""
    return None if seed == -1 else seed


def _variation(body: Painting) -> dict[str, object] | None:
    if not body.subseed_strength:
        return None
    return {"strength": body.subseed_strength, "seed": _seed(body.subseed)}


def _refiner(body: Painting, models: Sequence[Model]) -> dict[str, object] | None:
    name, switch = body.refiner_checkpoint, body.refiner_switch_at
    if not name or name == "None" or switch == 1:
        return None
    refiner: dict[str, object] = {"model": find_model(name, models, "refiner_checkpoint").id}
    return refiner if switch is None else {**refiner, "switch": switch}


def _solver(body: Painting, options: Options, model: Model) -> dict[str, object]:
    """Sampler, schedule and what hangs on them.  Clients send an eta to samplers that have none, as A1111 lets them."""
    if "sampler" in model.defaults.unused:
        return {}
    sampler, schedule = _names(body)
    acts = sampler or model.defaults.sampler
    eta = options.eta(acts) if body.eta is None else body.eta
    fields = {
        "sampler": sampler,
        "schedule": schedule,
        "discard_penultimate": options.discard or acts in A1111_DISCARDS,
        "eta": eta if acts in ETA else None,
    }
    return for_model(fields, model)


def _names(body: Painting) -> tuple[SamplerName | None, ScheduleName | None]:
    """A sampler without a schedule has the one that A1111's "Automatic" means for it."""
    name, schedule = body.sampler_name or body.sampler_index, body.scheduler or "Automatic"
    try:
        if name:
            return read_solver(name, schedule)
        return None, None if schedule.lower() == "automatic" else read_schedule(schedule)
    except ValueError as error:
        raise refused(f"sampler_name or scheduler: {error}", "sampler_name") from None


def _constants(options: Options, model: Model) -> dict[str, object]:
    """What makes A1111's pictures A1111's."""
    fields = {
        "prompt_syntax": "a1111",
        "start": "diffusers" if options.centred else "a1111",
        "noise_source": NOISE_SOURCES[options.noise],
    }
    return for_model(fields, model)


def _shown(body: Painting, hidden: frozenset[str]) -> dict[str, object]:
    shown = body.model_dump(exclude={"alwayson_scripts", "override_settings", *hidden})
    return {
        **shown,
        **dict.fromkeys(sorted(hidden)),
        "override_settings": acting(body.override_settings or {}),
        "script_args": [],
        "alwayson_scripts": {},
    }
