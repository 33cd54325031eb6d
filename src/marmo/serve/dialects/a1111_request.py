"""A1111's `txt2img` and `img2img` as requests that paint what A1111 1.10 paints: its prompt syntax, start and noise.

What a body leaves out is the model's default, not A1111's 512 x 512 and 50 steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marmo.request import ImageRequest
from marmo.request_parts import Fill
from marmo.serve.contract import Model
from marmo.serve.dialects.a1111_body import Img2Img, Painting, Txt2Img, check_off, check_scripts
from marmo.serve.dialects.a1111_hires import HIRES_FIELD_NAMES, hires
from marmo.serve.dialects.a1111_options import NOISE_SOURCES, Options, acting, clip_skip, for_model
from marmo.serve.dialects.bodies import as_request, find_model, read_body, read_picture, refused
from marmo.serve.headers import read_header
from marmo.solver_names import A1111_DISCARDS, ETA, SamplerName, ScheduleName, read_schedule, read_solver

FIELD_NAMES: Mapping[str, str] = {
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "num_images": "batch_size x n_iter",
    "init_image": "init_images",
    "image_guidance_scale": "image_cfg_scale",
    "inpaint.feather": "mask_blur",
    "inpaint.padding": "inpaint_full_res_padding",
    "inpaint.invert": "inpainting_mask_invert",
    "variation.strength": "subseed_strength",
    "variation.seed": "subseed",
    "refiner.model": "refiner_checkpoint",
    "refiner.switch": "refiner_switch_at",
    **HIRES_FIELD_NAMES,
}

FILLS: Sequence[Fill] = ("blurred", "original", "noise", "blank")
"""`inpainting_fill`: what the part under the mask begins with."""


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


def read_txt2img(body: object, options: Options, models: Sequence[Model], upscalers: Sequence[Model] = ()) -> Wanted:
    """The body of `txt2img`; `Problem` for what cannot be done."""
    read = read_body(Txt2Img, body)
    return _wanted(read, options, models, {"hires": hires(read, upscalers)}, frozenset())


def read_img2img(body: object, options: Options, models: Sequence[Model]) -> Wanted:
    """The body of `img2img`; `Problem` for what cannot be done."""
    read = read_body(Img2Img, body)
    if not read.init_images or len(read.init_images) != 1:
        raise refused(f"init_images must hold one picture, not {len(read.init_images or [])}", "init_images")
    picture = read_picture(read.init_images[0], "init_images")
    _check_resizing(read, picture)
    pictures = {"init_image": picture, "strength": read.denoising_strength, **_masked(read)}
    hidden = frozenset[str]() if read.include_init_images else frozenset({"init_images", "mask"})
    return _wanted(read, options, models, pictures, hidden)


def _wanted(
    body: Painting, options: Options, models: Sequence[Model], own: Mapping[str, object], hidden: frozenset[str]
) -> Wanted:
    check_off(body)
    check_scripts(body)
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
        "tiling": "both" if (overridden.tiling if body.tiling is None else body.tiling) else None,
        **_solver(body, overridden, model),
        **_constants(overridden, model),
        **_image_guidance(body, model),
        **own,
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


def _check_resizing(body: Img2Img, picture: bytes) -> None:
    """A picture of another shape is stretched, which is resize_mode 0; where the shape is the same, so are 1 and 2."""
    if not body.resize_mode or body.width is None or body.height is None:
        return
    try:
        header = read_header(picture)
    except ValueError as error:
        raise refused(f"init_images: {error}", "init_images") from None
    if body.resize_mode == 3 or header.width * body.height != header.height * body.width:
        raise refused(
            f"resize_mode must be 0 here: the picture has {header.width} x {header.height} pixels and is stretched to "
            f"{body.width} x {body.height}; cut it to that shape first",
            "resize_mode",
        )


def _masked(body: Img2Img) -> dict[str, object]:
    """A1111's inpainting; without a mask its settings mean nothing.  The mask stays as it is; see `masks`."""
    if not body.mask:
        return {}
    across, down = (blur if blur is not None else body.mask_blur for blur in (body.mask_blur_x, body.mask_blur_y))
    if across != down:
        raise refused("mask_blur_x and mask_blur_y must be the same here", "mask_blur_x")
    if body.mask_round is False:
        raise refused("mask_round: masks have hard edges in the latents here", "mask_round")
    inpaint: dict[str, object] = {
        "fill": FILLS[body.inpainting_fill or 0],
        "feather": 4.0 if across is None else across,
        "invert": bool(body.inpainting_mask_invert),
    }
    if body.inpaint_full_res is not False:
        inpaint |= {"area": "masked", "padding": body.inpaint_full_res_padding or 0}
    return {"mask": read_picture(body.mask, "mask"), "inpaint": inpaint}


def _image_guidance(body: Painting, model: Model) -> dict[str, object]:
    """Clients send it to every model, as A1111 lets them; only those that edit by instruction have a use for it."""
    if not isinstance(body, Img2Img) or model.defaults.image_guidance_scale is None:
        return {}
    return {"image_guidance_scale": body.image_cfg_scale}


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
