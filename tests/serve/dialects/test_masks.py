"""Masks of other programs, and strangers' pictures in a process of their own."""

import json
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from marmo.serve.dialects import masks
from marmo.serve.dialects.masks import apart, may_be_transparent, respond
from marmo.serve.problems import Problem
from tests.serve.dialects.pictures import holed, picture


def saved(image: Image.Image, format: str = "PNG", **how: object) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **how)
    return stream.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def test_what_is_transparent_is_painted():
    painted = opened(apart("transparent", holed(), "mask"))
    assert (painted.mode, painted.getpixel((0, 0)), painted.getpixel((63, 0))) == ("L", 255, 0)


def test_what_is_opaque_is_painted():
    painted = opened(apart("opaque", holed(), "mask"))
    assert (painted.getpixel((0, 0)), painted.getpixel((63, 0))) == (0, 255)
    assert respond("opaque", picture()) == picture()


def test_a_transparent_colour_counts_too():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.putpixel((0, 0), 0)
    data = saved(palette, transparency=0)
    assert may_be_transparent(data)
    painted = opened(respond("transparent", data))
    assert (painted.getpixel((0, 0)), painted.getpixel((7, 7))) == (255, 0)


@pytest.mark.parametrize(
    ("mode", "promised"), [("RGBA", True), ("LA", True), ("RGB", False), ("L", False), ("1", False)]
)
def test_transparency_is_seen_in_the_header(mode: str, promised: bool):
    assert may_be_transparent(saved(Image.new(mode, (8, 8)))) is promised
    assert not may_be_transparent(saved(Image.new("RGB", (8, 8)), "JPEG"))


def test_a_webp_mask_is_read():
    data = saved(Image.new("RGBA", (8, 8)), "WEBP", lossless=True)
    assert opened(respond("transparent", data)).getextrema() == (255, 255)


def test_texts_are_read():
    about = PngInfo()
    about.add_text("parameters", "a fox, 狐\nSteps: 4, Seed: 1, Size: 8x8")
    data = saved(Image.new("RGB", (8, 8)), pnginfo=about)
    assert json.loads(apart("texts", data, "image"))["parameters"].startswith("a fox, 狐")


def test_a_refusal_comes_back_with_its_words():
    with pytest.raises(Problem, match="mask: what shall be painted must be transparent") as error:
        apart("transparent", picture(), "mask")
    assert (error.value.status, error.value.facts["field"]) == (400, "mask")


def test_a_mask_of_too_many_pixels_is_not_decoded():
    rows = zlib.compress(bytes(1))
    chunk = (9000).to_bytes(4, "big") * 2 + b"\x08\x06\0\0\0"
    head = (
        b"\x89PNG\r\n\x1a\n"
        + (13).to_bytes(4, "big")
        + b"IHDR"
        + chunk
        + zlib.crc32(b"IHDR" + chunk).to_bytes(4, "big")
    )
    with pytest.raises(ValueError, match="16 million"):
        respond("transparent", head + rows)


def test_a_process_that_dies_is_a_picture_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masks, "_CHILD", "import os; os.abort()")
    with pytest.raises(Problem, match="mask: the picture cannot be read"):
        apart("opaque", holed(), "mask")


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masks, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(masks, "MAX_SECONDS", 0.1)
    with pytest.raises(Problem, match="took too long"):
        apart("opaque", holed(), "mask")


@settings(max_examples=60)
@given(
    st.sampled_from([holed(), picture()]), st.integers(0, 400), st.binary(min_size=1, max_size=4), st.integers(0, 400)
)
def test_a_damaged_picture_is_read_or_refused(data: bytes, at: int, junk: bytes, cut: int):
    damaged = (data[:at] + junk + data[at + len(junk) :])[: max(len(data) - cut, 0)]
    for question in ("transparent", "opaque", "texts"):
        try:
            respond(question, damaged)
        except ValueError as error:
            assert str(error)
