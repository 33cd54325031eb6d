"""What one request may ask for over HTTP, beyond what is true of every request."""

from marmo.request import Defaults, ImageRequest
from marmo.serve.headers import read_header
from marmo.serve.inputs import detach
from marmo.serve.problems import Problem
from marmo.serve.settings import Limits


def check_request(request: ImageRequest, limits: Limits) -> None:
    """`Problem` 422 for a prompt, steps or pictures beyond the limits, and for bytes that are no picture."""
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        _within(name, len(text or ""), limits.prompt_chars, "characters")
    _within("steps", request.steps or 0, limits.steps)
    for name, data in detach(request)[1].items():
        check_picture(name, data, limits)


def check_size(request: ImageRequest, defaults: Defaults, limits: Limits) -> None:
    """`Problem` 422 for more pixels than allowed, of a request that `check_request` has passed.

    A side that is not said is that of the picture to start from, else the model's own.
    """
    start = read_header(request.init_image) if request.init_image is not None else defaults
    pixels = (request.width or start.width) * (request.height or start.height)
    _within("width x height", pixels, limits.paint_pixels, "pixels")
    _within("num_images x width x height", request.num_images * pixels, limits.request_pixels, "pixels")


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
