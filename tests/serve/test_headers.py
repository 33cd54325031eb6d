"""What the server knows of an upload is what Pillow would say, and nothing that is sent breaks the reader."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from marmo.serve.headers import Header, read_header

KINDS = [
    ("PNG", {}),
    ("PNG", {"mode": "RGBA"}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + b"x" * 5000, "icc_profile": b"p" * 70_000}),
    ("WEBP", {"quality": 80}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"mode": "RGBA", "lossless": True}),
    ("WEBP", {"quality": 80, "exif": b"Exif\0\0" + b"x" * 100}),
]


def picture(kind: str, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    stream = BytesIO()
    Image.new(mode, (width, height), "red").save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (37, 1000), (301, 16)])
def test_it_reads_what_pillow_wrote(kind: str, options: dict[str, object], width: int, height: int) -> None:
    assert read_header(picture(kind, width, height, **options)) == Header(kind, width, height)


@given(st.sampled_from(KINDS), st.data())
def test_damage_ends_in_a_sentence_or_in_a_size(kind: tuple[str, dict[str, object]], data: st.DataObject) -> None:
    whole = bytearray(picture(kind[0], 20, 30, **kind[1]))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 200)))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        header = read_header(cut)
    except ValueError as error:
        assert "picture" in str(error)
    else:
        assert header.width > 0 and header.height > 0


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X"]))
def test_bytes_of_any_kind_end_in_a_sentence_or_in_a_size(data: bytes, start: bytes) -> None:
    try:
        read_header(start + data)
    except ValueError as error:
        assert "picture" in str(error)


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(20), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b""]
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no PNG, JPEG or WebP"):
        read_header(data)


def test_a_jpeg_of_endless_segments_is_given_up() -> None:
    with pytest.raises(ValueError, match="no PNG, JPEG or WebP"):
        read_header(b"\xff\xd8" + b"\xff\xe1\x00\x02" * 1_000_000)
