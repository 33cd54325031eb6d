"""Hugging Face's text-to-image and image-to-image inference: its JSON body as a request.

`inputs` is the prompt, or a picture in base64 whose prompt is among the `parameters`.
"""

import base64
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from marmo.request import MAX_SEED, ImageRequest
from marmo.serve.contract import Model
from marmo.serve.dialects.bodies import as_request, find_model, picture_format, read_body, read_picture, refused
from marmo.serve.dialects.openai_request import Format

FIELD_NAMES: Mapping[str, str] = {
    "steps": "num_inference_steps",
    "sampler": "scheduler",
    "num_images": "num_images_per_prompt",
    "init_image": "inputs",
}
FORMATS: Mapping[str, Format] = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/webp": "webp"}
SHORTEST = 64  # characters of base64 in the smallest picture there is


class TargetSize(BaseModel):
    """Of image-to-image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    height: int


class Parameters(BaseModel):
    """What may stand beside the inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: str | None = Field(default=None, max_length=100_000)
    negative_prompt: str | None = Field(default=None, max_length=100_000)
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    width: int | None = None
    height: int | None = None
    target_size: TargetSize | None = None
    scheduler: str | None = Field(default=None, max_length=100)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    strength: float | None = None


class Body(BaseModel):
    """The whole; `options` (whether to wait, to use a cache) say nothing about the picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: str = Field(max_length=200_000_000)
    parameters: Parameters | None = None
    options: dict[str, object] | None = None


def read_inference(body: object, model: str, models: Sequence[Model]) -> ImageRequest:
    """A body for the model that the address names; `Problem` for what cannot be done."""
    known = find_model(model.rsplit("/", 1)[-1], models, "model", status=404)
    read = read_body(Body, body)
    said = read.parameters or Parameters()
    size = said.target_size
    fields = {
        "negative_prompt": said.negative_prompt,
        "model": known.id,
        "width": size.width if size else said.width,
        "height": size.height if size else said.height,
        "steps": said.num_inference_steps,
        "guidance_scale": said.guidance_scale,
        "sampler": said.scheduler,
        "seed": said.seed,
        **_inputs(read.inputs, said),
    }
    return as_request(fields, FIELD_NAMES)


def _inputs(text: str, said: Parameters) -> dict[str, object]:
    if said.prompt is not None or _is_picture(text):
        picture = {"init_image": read_picture(text, "inputs"), "strength": said.strength}
        return {"prompt": said.prompt or "", **picture}
    if said.strength is not None or said.target_size is not None:
        raise refused("strength and target_size need a picture as inputs", "parameters")
    return {"prompt": text}


def _is_picture(text: str) -> bool:
    """Whether base64 of a picture begins here; no prompt looks like that."""
    if text.startswith("data:image/"):
        return True
    try:
        return len(text) > SHORTEST and picture_format(base64.b64decode(text[:SHORTEST], validate=True)) is not None
    except ValueError:
        return False


def read_accept(accept: str | None) -> Format:
    """The first format of an `Accept` header that we write, PNG if it leaves the choice."""
    for part in (accept or "*/*").split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in ("*/*", "image/*", ""):
            return "png"
        if kind in FORMATS:
            return FORMATS[kind]
    raise refused("pictures are sent as image/png, image/jpeg or image/webp", "Accept", "not_acceptable", 406)
