"""What one request may ask for over HTTP, beyond what is true of every request."""

import re
from collections.abc import Iterator
from math import ceil
from typing import cast

from pydantic import BaseModel

from marmo.request import Defaults, ImageRequest
from marmo.serve.headers import read_header
from marmo.serve.inputs import detach
from marmo.serve.problems import Problem
from marmo.serve.settings import Limits

ID = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_request(request: ImageRequest, limits: Limits) -> None:
    """`Problem` 422 for texts or steps beyond the limits, for bytes that are no picture, and for models by a path."""
    for place, text in texts_of(request):
        _within(place, len(text), limits.prompt_chars, "characters")
    _within("steps", request.steps or 0, limits.steps)
    _within("hires.steps", request.hires.steps or 0, limits.steps)
    for place, data in detach(request)[1].items():
        check_picture(place, data, limits)
    others = (("vae", request.vae), ("hires.model", request.hires.model), ("upscale.model", request.upscale.model))
    for place, id in others:
        if id is not None and not ID.fullmatch(id):
            raise Problem(422, "model_unknown", f"{place} is the id of a model here", facts={"field": place})


def texts_of(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a request, with its place, such as `regions.0.prompt`."""
    match value:
        case str():
            yield place, value
        case BaseModel():
            for name, part in value:
                yield from texts_of(part, f"{place}.{name}".lstrip("."))
        case tuple():
            for index, part in enumerate(cast(tuple[object, ...], value)):
                yield from texts_of(part, f"{place}.{index}")
        case _:
            pass


def check_size(request: ImageRequest, defaults: Defaults, limits: Limits) -> None:
    """`Problem` 422 for more pixels than allowed, of a request that `check_request` has passed."""
    width, height = final_size(request, defaults)
    if not defaults.paints and request.init_image is not None:
        start = read_header(request.init_image)
        most = max(width * height, start.width * start.height * defaults.grows**2)
        return _within("width x height", most, limits.enlarge_pixels, "pixels")
    _within("width x height", width * height, limits.paint_pixels, "pixels")
    _within("num_images x width x height", request.num_images * width * height, limits.request_pixels, "pixels")


def resolved(request: ImageRequest, defaults: Defaults) -> ImageRequest:
    """The request with nothing left open but a size that the picture to start from decides.

    The worker fills that in when it decodes the picture, which may have to be turned upright.
    """
    if request.init_image is None or request.width is not None or request.height is not None or not defaults.paints:
        return request.resolve(defaults)
    start, multiple = read_header(request.init_image), defaults.size_multiple
    sides = (max(side * defaults.grows // multiple, 1) * multiple for side in (start.width, start.height))
    whole = request.model_copy(update=dict(zip(("width", "height"), sides, strict=True))).resolve(defaults)
    return whole.model_copy(update={"width": None, "height": None})


def final_size(request: ImageRequest, defaults: Defaults) -> tuple[int, int]:
    """Width and height of the largest picture on the way.

    A side that is not said is that of the picture to start from, as the model enlarges it, else the model's own;
    outpainting and the second pass enlarge it.
    """
    width, height = request.width or defaults.width, request.height or defaults.height
    if request.init_image is not None:
        start = read_header(request.init_image)
        wide, high = start.width * defaults.grows, start.height * defaults.grows
        width, height = request.width or wide, request.height or high
        if not defaults.paints:
            return request.upscale.size((start.width, start.height), request.width, request.height, defaults.grows)
    out, hires = request.outpaint, request.hires
    width, height = width + out.left + out.right, height + out.top + out.bottom
    scale = max(hires.scale or 1, (hires.width or 0) / width, (hires.height or 0) / height)
    return ceil(width * scale), ceil(height * scale)


def check_picture(name: str, data: bytes, limits: Limits) -> None:
    """`Problem` 422 for what is no PNG, JPEG or WebP by its header, or is too large; nothing is decoded."""
    _within(name, len(data), limits.picture_bytes, "bytes")
    try:
        header = read_header(data)
    except ValueError as error:
        raise Problem(422, "bad_picture", f"{name}: {error}", facts={"field": name}) from None
    _within(name, header.width * header.height, limits.picture_pixels, "pixels")


def _within(name: str, given: int, limit: int, unit: str = "") -> None:
    if given > limit:
        amount = f"{limit:,} {unit}".rstrip()
        raise Problem(
            422,
            "over_limit",
            f"{name} may be at most {amount} here, not {given:,}",
            facts={"field": name, "limit": limit, "given": given},
        )
