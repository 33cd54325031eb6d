"""What a request may ask for over HTTP."""

from io import BytesIO

import pytest
from PIL import Image

from marmo.request import Defaults, ImageRequest
from marmo.request_parts import Hires, Outpaint, Region, Upscale
from marmo.serve.limits import check_request, check_size, final_size, resolved
from marmo.serve.problems import Problem
from marmo.serve.settings import Limits

LIMITS = Limits(prompt_chars=10, steps=5, picture_bytes=500, picture_pixels=100, paint_pixels=64, request_pixels=128)


def png(width: int, height: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_what_is_within_the_limits_passes() -> None:
    check_request(ImageRequest(prompt="x" * 10, negative_prompt="y" * 10, steps=5, init_image=png(10, 10)), LIMITS)
    check_size(ImageRequest(width=8, height=8, num_images=2), Defaults(), LIMITS)


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (ImageRequest(prompt="x" * 11), "over_limit", "prompt"),
        (ImageRequest(negative_prompt="x" * 11), "over_limit", "negative_prompt"),
        (ImageRequest(regions=(Region(prompt="x" * 11, box=(0, 0, 1, 1)),)), "over_limit", "regions.0.prompt"),
        (ImageRequest(hires=Hires(scale=2, prompt="x" * 11)), "over_limit", "hires.prompt"),
        (ImageRequest(hires=Hires(scale=2, steps=6)), "over_limit", "hires.steps"),
        (ImageRequest(hires=Hires(scale=2, model="/x/y")), "model_unknown", "hires.model"),
        (ImageRequest(vae="../vae"), "model_unknown", "vae"),
        (ImageRequest(regions=(Region(prompt="x", mask=b"GIF89a"),)), "bad_picture", "regions.0.mask"),
        (ImageRequest(steps=6), "over_limit", "steps"),
        (ImageRequest(init_image=png(10, 11)), "over_limit", "init_image"),
        (ImageRequest(init_image=png(10, 10) + bytes(500)), "over_limit", "init_image"),
        (ImageRequest(init_image=b"GIF89a"), "bad_picture", "init_image"),
        (ImageRequest(init_image=b""), "bad_picture", "init_image"),
    ],
)
def test_what_is_not_is_refused_by_name(request_: ImageRequest, code: str, field: str) -> None:
    with pytest.raises(Problem) as caught:
        check_request(request_, LIMITS)
    assert (caught.value.status, caught.value.code, caught.value.facts["field"]) == (422, code, field)


@pytest.mark.parametrize(
    "request_",
    [
        ImageRequest(width=16, height=8),
        ImageRequest(width=8, height=8, num_images=3),
        ImageRequest(height=8),
        ImageRequest(init_image=png(9, 9)),
        ImageRequest(width=8, height=8, hires=Hires(scale=1.5)),
        ImageRequest(width=8, height=8, hires=Hires(width=16)),
        ImageRequest(init_image=png(8, 8), outpaint=Outpaint(left=8)),
    ],
)
def test_pixels_count_with_the_size_that_is_not_said(request_: ImageRequest) -> None:
    with pytest.raises(Problem, match="pixels"):
        check_size(request_, Defaults(width=512, height=512), LIMITS)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = bytearray(png(1, 1))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(Problem, match="64,000,000 pixels"):
        check_request(ImageRequest(init_image=bytes(bomb)), Limits())


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (ImageRequest(init_image=png(8, 8)), True),
        (ImageRequest(init_image=png(8, 9)), False),
        (ImageRequest(init_image=png(8, 8), upscale=Upscale(scale=4.1)), False),
        (ImageRequest(init_image=png(8, 8), width=33), False),
        (ImageRequest(init_image=png(8, 9), width=8, height=8), False),  # what the network makes is too large
        (ImageRequest(init_image=png(8, 2), width=8, height=32, upscale=Upscale(cover=True)), False),
        (ImageRequest(init_image=png(8, 2), width=8, height=32), True),
    ],
)
def test_what_is_only_enlarged_has_its_own_limit(request_: ImageRequest, allowed: bool) -> None:
    limits, upscaler = Limits(paint_pixels=1, enlarge_pixels=32 * 32), Defaults(paints=False, grows=4)
    if allowed:
        return check_size(request_, upscaler, limits)
    with pytest.raises(Problem, match="at most 1,024 pixels"):
        check_size(request_, upscaler, limits)


def test_a_size_that_a_picture_decides_stays_open() -> None:
    """The header alone does not say how the picture is to be turned."""
    paints, upscaler = Defaults(width=512, height=512, grows=2), Defaults(paints=False, grows=4)
    start = ImageRequest(init_image=png(41, 80), seed=7)
    assert (resolved(start, paints).width, resolved(start, upscaler).width) == (None, None)
    assert resolved(start, paints).strength == 0.75 and final_size(start, paints) == (82, 160)
    said = resolved(start.model_copy(update={"width": 64}), paints)
    assert (said.width, said.height) == (64, 512)
    with pytest.raises(ValueError, match="hires makes 80 x 80 of 80 x 160"):
        resolved(start.model_copy(update={"hires": Hires(width=80, height=80)}), paints)
