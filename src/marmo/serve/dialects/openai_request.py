"""OpenAI's Images API: bodies of `images/generations` and `images/edits` as requests.

Names are those of OpenAI's reference; `negative_prompt`, `seed`, `num_inference_steps` and `guidance_scale` are
further fields, spelled as vLLM-Omni spells them, which its Python client sends through `extra_body`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from marmo.request import MAX_SEED, MAX_SIDE, ImageRequest
from marmo.serve.contract import Model
from marmo.serve.dialects.bodies import as_request, default_model, find_model, picture_format, read_body, refused
from marmo.serve.headers import read_header
from marmo.solver_names import short

Quality = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
Format = Literal["png", "jpeg", "webp"]

STEPS: Mapping[Quality, float] = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 3.0}
"""A quality -> steps, as a multiple of the model's own; the others leave them as they are."""

SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
FIELD_NAMES: Mapping[str, str] = {
    "num_images": "n",
    "steps": "num_inference_steps",
    "width": "size",
    "height": "size",
    "init_image": "image",
}
UNSUPPORTED: Mapping[str, str] = {
    "style": "this server paints in no style of its own; say it in the prompt",
    "complexity": "this server plans no picture beforehand",
    "frame_count": "this server paints no animations",
    "frame_duration_ms": "this server paints no animations",
    "svg": "this server paints no vector graphics",
    "markup": "this server reads no markup; send a mask",
}
"""OpenAI's fields that mean nothing here, and why."""


class Common(BaseModel):
    """What both bodies share."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    prompt: str = Field(min_length=1, max_length=100_000)
    model: str | None = None
    n: int | None = Field(default=None, ge=1, le=10)
    size: str | None = None
    quality: Quality | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    output_format: Literal["png", "jpeg", "webp", "gif", "svg"] | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    response_format: Literal["url", "b64_json"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)
    negative_prompt: str | None = Field(default=None, max_length=100_000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_inference_steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)


class Generation(Common):
    """The body of `images/generations`."""

    moderation: Literal["low", "auto"] | None = None


class Edit(Common):
    """The fields of `images/edits` that are no files."""

    input_fidelity: Literal["low", "high"] | None = None
    strength: Annotated[float | None, Field(ge=0, le=1)] = None
    """Ours: how far to leave the picture."""


Body = TypeVar("Body", bound=Common)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request, and how its answer shall look."""

    request: ImageRequest
    model: Model
    quality: Literal["low", "medium", "high", "xhigh", "max"]
    format: Format
    compression: int
    """Of JPEG and WebP, 0 to 100."""
    stream: bool
    partial_images: int
    """How many to send before the picture itself, 0 to 3."""
    by_url: bool
    """Whether the answer holds addresses instead of pictures."""


def read_generation(body: object, models: Sequence[Model]) -> Wanted:
    """The body of `images/generations`; `Problem` for what cannot be done."""
    return _wanted(_read(Generation, body), models, {})


def read_edit(
    fields: Mapping[str, object], images: Sequence[bytes], mask: bytes | None, models: Sequence[Model]
) -> Wanted:
    """The form of `images/edits`: its fields, its pictures and its mask, which stays as it is; see `masks`."""
    edit = _read(Edit, fields)
    if len(images) != 1:
        raise refused(f"this server edits one image at a time, not {len(images)}", "image")
    for name, data in (("image", images[0]), ("mask", mask)):
        if data is not None and picture_format(data) is None:
            raise refused(f"{name}: this is no PNG, JPEG or WebP file", name, "invalid_image_file")
    if edit.input_fidelity == "high":
        raise refused("input_fidelity: high is not supported here; a lower strength keeps more", "input_fidelity")
    if mask is not None:
        _check_size(edit.size, images[0])
    return _wanted(edit, models, {"init_image": images[0], "mask": mask, "strength": edit.strength})


def _check_size(size: str | None, image: bytes) -> None:
    """What is outside a mask is kept to the bit, so the picture keeps its size."""
    try:
        header = read_header(image)
    except ValueError as error:
        raise refused(f"image: {error}", "image", "invalid_image_file") from None
    if size not in (None, "auto", f"{header.width}x{header.height}"):
        raise refused(f"size: with a mask the image keeps its own {header.width}x{header.height}", "size")


def _read(kind: type[Body], body: object) -> Body:
    if isinstance(body, Mapping):
        _check_known(cast(Mapping[str, object], body))
    return read_body(kind, cast(object, body))


def _check_known(fields: Mapping[str, object]) -> None:
    for name, why in UNSUPPORTED.items():
        if fields.get(name) is not None:
            raise refused(f"{name}: {why}", name, "unsupported_parameter")


def _wanted(body: Common, models: Sequence[Model], pictures: Mapping[str, object]) -> Wanted:
    model = find_model(body.model, models, "model", status=404) if body.model else default_model(models)
    width, height = _size(body.size)
    fields = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "model": model.id,
        "width": width,
        "height": height,
        "steps": body.num_inference_steps or _steps(body.quality, model),
        "guidance_scale": body.guidance_scale,
        "seed": body.seed,
        "num_images": body.n or 1,
        **pictures,
    }
    return Wanted(
        request=as_request(fields, FIELD_NAMES),
        model=model,
        quality=_quality(body.quality),
        format=_format(body),
        compression=100 if body.output_compression is None else body.output_compression,
        stream=_stream(body),
        partial_images=body.partial_images or 0,
        by_url=_by_url(body),
    )


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None or text == "auto":
        return None, None
    size = SIZE.fullmatch(text)
    if size is None or not all(8 <= int(side) <= MAX_SIDE for side in size.groups()):
        raise refused(f"size must be auto or as 512x768, each side 8 to {MAX_SIDE}, not {short(text)}", "size")
    return int(size[1]), int(size[2])


def _steps(quality: Quality | None, model: Model) -> int | None:
    """None leaves the model's own."""
    factor = STEPS.get(quality) if quality else None
    if factor is None:
        return None
    if "steps" in model.defaults.unused:
        raise refused(f"quality: {quality} means nothing to {model.id}, which paints in one go", "quality")
    return min(max(round(model.defaults.steps * factor), 1), 1000)


def _quality(quality: Quality | None) -> Literal["low", "medium", "high", "xhigh", "max"]:
    match quality:
        case None | "auto" | "standard":
            return "medium"
        case "hd":
            return "high"
        case _:
            return quality


def _format(body: Common) -> Format:
    if body.background == "transparent":
        raise refused("background: this server paints no transparent pictures", "background", "unsupported_parameter")
    match body.output_format or "png":
        case "gif" | "svg":
            raise refused("output_format must be png, jpeg or webp", "output_format", "unsupported_parameter")
        case "png" if (body.output_compression or 100) != 100 or body.output_compression == 0:
            raise refused("output_compression needs the output_format jpeg or webp", "output_compression")
        case format:
            return format


def _by_url(body: Common) -> bool:
    """At its address a picture is the PNG file."""
    if body.response_format != "url":
        return False
    if body.stream or (body.output_format or "png") != "png":
        raise refused("response_format: only whole PNG files have an address; leave it out", "response_format")
    return True


def _stream(body: Common) -> bool:
    if body.partial_images and not body.stream:
        raise refused("partial_images needs stream", "partial_images")
    if body.stream and (body.n or 1) > 1:
        raise refused("one picture at a time is streamed; leave out n or stream", "n")
    return bool(body.stream)
