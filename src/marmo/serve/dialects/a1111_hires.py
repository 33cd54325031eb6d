"""A1111's "hires. fix" as a second pass: `enable_hr` and the fields that mean something beside it.

Names of what enlarges are those of infotext.  Names and defaults are A1111 1.10's (`modules/processing.py`).
"""

from collections.abc import Mapping, Sequence

from marmo.files.infotext import ENLARGERS
from marmo.request_parts import Enlarger
from marmo.serve.contract import Model
from marmo.serve.dialects.a1111_body import Txt2Img
from marmo.serve.dialects.a1111_extras import find_upscaler, upscaler_names
from marmo.serve.dialects.bodies import refused
from marmo.serve.problems import Problem
from marmo.solver_names import short

HIRES_FIELD_NAMES: Mapping[str, str] = {
    "hires": "enable_hr",
    "hires.scale": "hr_scale",
    "hires.width": "hr_resize_x",
    "hires.height": "hr_resize_y",
    "hires.upscaler": "hr_upscaler",
    "hires.model": "hr_upscaler",
    "hires.steps": "hr_second_pass_steps",
    "hires.strength": "denoising_strength",
    "hires.prompt": "hr_prompt",
    "hires.negative_prompt": "hr_negative_prompt",
}

SCALE = 2.0
"""Where a body says no size: A1111's own, because no model has one."""
UPSCALERS: Mapping[str, Enlarger] = {"None": "lanczos", **{name: ours for ours, name in ENLARGERS.items()}}
"""What enlarges; in A1111, too, "None" is Lanczos' kernel as soon as there is another size."""
SAME: Mapping[str, tuple[str, str]] = {
    "hr_checkpoint_name": ("Use same checkpoint", "model"),
    "hr_sampler_name": ("Use same sampler", "sampler"),
    "hr_scheduler": ("Use same scheduler", "schedule"),
}
"""What the second pass has in common with the first: how A1111 says so, and what it is."""


def hires(body: Txt2Img, upscalers: Sequence[Model]) -> dict[str, object] | None:
    """The second pass that is asked for; `Problem` for one that cannot be had."""
    if not body.enable_hr:
        return None
    _check_same(body)
    width, height = body.hr_resize_x or None, body.hr_resize_y or None
    has_size = width is not None or height is not None
    return {
        "scale": None if has_size else SCALE if body.hr_scale is None else body.hr_scale,
        "width": width,
        "height": height,
        **_upscaler(body.hr_upscaler, upscalers),
        "steps": body.hr_second_pass_steps or None,
        "strength": body.denoising_strength,
        "prompt": body.hr_prompt or None,
        "negative_prompt": body.hr_negative_prompt or None,
    }


def _upscaler(name: str | None, upscalers: Sequence[Model]) -> dict[str, object]:
    """A rule by A1111's name, or a network by its own."""
    if not name or name in UPSCALERS:
        return {"upscaler": UPSCALERS[name] if name else None}
    try:
        network = find_upscaler(name, upscalers, "hr_upscaler")
    except Problem:
        known = [*UPSCALERS, *(name for name in upscaler_names(upscalers).values() if name not in UPSCALERS)]
        raise refused(
            f"hr_upscaler: there is no {short(name)} here; there are: {', '.join(known)}", "hr_upscaler"
        ) from None
    assert network is not None, "None is the name of a rule"
    return {"upscaler": "model", "model": network.id}


def _check_same(body: Txt2Img) -> None:
    said = {"hr_sampler_name": body.sampler_name or body.sampler_index, "hr_scheduler": body.scheduler}
    for name, (same, what) in SAME.items():
        value: object = getattr(body, name)
        if value not in (None, "", same, said.get(name)):
            raise refused(
                f"{name}: the second pass has the {what} of the first here, not {short(value)}; leave it out",
                name,
                "unsupported_parameter",
            )
