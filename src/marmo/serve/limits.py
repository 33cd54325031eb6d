"""What one request may ask for over HTTP, beyond what is true of every request."""

from collections.abc import Iterator

from marmo.request import Defaults, ImageRequest
from marmo.serve.headers import read_header
from marmo.serve.problems import Problem
from marmo.serve.settings import Limits


def check_request(request: ImageRequest, limits: Limits) -> None:
    """`Problem` 422 for a prompt, steps or pictures beyond the limits, and for bytes that are no picture."""
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        _within(name, len(text or ""), limits.prompt_chars, "characters")
    _within("steps", request.steps or 0, limits.steps)
    for name, data in pictures_of(request):
        check_picture(name, data, limits)


def check_size(request: ImageRequest, defaults: Defaults, limits: Limits) -> None:
    """`Problem` 422 for more pixels than allowed, with the model's own size where none is said."""
    pixels = (request.width or defaults.width) * (request.height or defaults.height)
    _within("width x height", pixels, limits.paint_pixels, "pixels")
    _within("num_images x width x height", request.num_images * pixels, limits.request_pixels, "pixels")


def pictures_of(request: ImageRequest) -> Iterator[tuple[str, bytes]]:
    """The pictures inside a request, by field."""
    for name, value in request:
        if isinstance(value, bytes):
            yield name, value


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
