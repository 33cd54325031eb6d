import json
import struct
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from marmo.files.infotext import infotext
from marmo.files.pictures import decode_image, encode_picture, find_prompt, find_record, read_record, save_picture
from marmo.files.record import Record
from marmo.request import ImageRequest

SUFFIXES = [".png", ".jpg", ".webp"]
GREY = np.arange(0, 256, 17, dtype=np.uint8).reshape(4, 4)
PICTURE = Image.fromarray(np.stack([GREY, GREY.T, GREY[::-1]], axis=-1))


def record(prompt: str = "a red fox", negative: str = "") -> Record:
    request = ImageRequest(prompt=prompt, negative_prompt=negative, seed=7)
    versions = {"marmo": "0.1.0", "torch": "2.13.0", "dtype": "float32", "device": "cpu"}
    return Record(**versions, request=request, image=0, weights={}, sigmas=(14.614641189575195, 0.1, 0.0))


def file(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def png_with(text: str, **options: object) -> bytes:
    chunks = PngInfo()
    chunks.add_text("marmo", text, **options)
    return file(PICTURE, pnginfo=chunks)


def parameters(data: bytes) -> str:
    """The infotext, as other programs look for it."""
    image = Image.open(BytesIO(data))
    if image.format == "PNG":
        return image.info["parameters"]
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    return comment.removeprefix(b"UNICODE\0").decode("utf-16-be")


# --- the record inside ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".jpeg", ".PNG"])
def test_saved_and_read(tmp_path, suffix):
    path = tmp_path / f"fox{suffix}"
    save_picture(path, PICTURE, record())
    assert read_record(path) == record()
    assert list(tmp_path.iterdir()) == [path]
    assert decode_image(path.read_bytes()).size == PICTURE.size


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from(SUFFIXES))
def test_any_prompt_round_trips(prompt, negative, suffix):
    data = encode_picture(PICTURE, record(prompt, negative), suffix)
    assert find_record(BytesIO(data)) == record(prompt, negative)
    assert parameters(data) == infotext(record(prompt, negative))


@pytest.mark.parametrize(("prompt", "chunk"), [("a caf\u00e9", b"tEXt"), ("a fox, 狐", b"iTXt")])
def test_latin_1_in_text_all_else_in_itxt(prompt, chunk):
    data = encode_picture(PICTURE, record(prompt), ".png")
    assert chunk + b"marmo\0" in data and chunk + b"parameters\0" in data


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_exif_fields_are_undefined_bytes(suffix):
    exif = Image.open(BytesIO(encode_picture(PICTURE, record(), suffix))).info["exif"].removeprefix(b"Exif\0\0")
    entries = [struct.unpack("<HH", exif[28 + 12 * index :][:4]) for index in range(2)]
    assert entries == [(ExifTags.Base.MakerNote, 7), (ExifTags.Base.UserComment, 7)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_program_may_save_it_again(suffix):
    image = Image.open(BytesIO(encode_picture(PICTURE, record(), suffix)))
    chunks = PngInfo()
    chunks.add_text("marmo", image.info.get("marmo", ""))
    for format in ("PNG", "JPEG", "WEBP") if suffix != ".png" else ("PNG",):
        again = file(image, format, exif=image.getexif(), pnginfo=chunks if suffix == ".png" else None)
        assert find_record(BytesIO(again)) == record()


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_lossless_at_quality_100(suffix):
    data = encode_picture(PICTURE, record(), suffix, quality=100)
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(PICTURE))


def test_the_longest_prompt():
    longest = record("狐" * 100_000, "\x01" * 100_000)
    for suffix in (".png", ".webp"):
        assert find_record(BytesIO(encode_picture(PICTURE, longest, suffix))) == longest
    with pytest.raises(ValueError, match="a JPEG has room for 65533; save a PNG or a WebP"):
        encode_picture(PICTURE, longest, ".jpg")


def test_text_behind_the_pixels_is_found():
    data = encode_picture(PICTURE, record(), ".png")
    start = data.index(b"tEXtmarmo\0") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    iend = data.index(b"IEND") - 4
    assert find_record(BytesIO(data[:start] + data[end:iend] + data[start:end] + data[iend:])) == record()


@pytest.mark.parametrize(("suffix", "quality", "reason"), [(".gif", 95, r"\.png, \.jpg"), (".jpg", 0, "1 to 100")])
def test_what_cannot_be_saved(tmp_path, suffix, quality, reason):
    with pytest.raises(ValueError, match=reason):
        save_picture(tmp_path / f"fox{suffix}", PICTURE, record(), quality)
    assert not list(tmp_path.iterdir())


# --- no record inside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no PNG, JPEG or WebP"),
        (b"a prompt in a text file", "no PNG, JPEG or WebP"),
        (file(PICTURE, "GIF"), "no PNG, JPEG or WebP"),
        (file(PICTURE)[:60], "cannot be read"),
        (file(PICTURE), "no Marmo record"),
        (file(PICTURE, "JPEG"), "no Marmo record"),
        (file(PICTURE, "WEBP"), "no Marmo record"),
        (png_with("Steps: 20"), "no Marmo record"),
        (png_with("{"), "'the record' is wrong: Invalid JSON"),
        (png_with("{}"), "'marmo' is wrong: Field required"),
        (png_with(json.dumps({"version": 2})), "from a newer Marmo"),
        (png_with("{" + "[" * 4_000_000), "at most 4000000 is read"),
        (png_with("{" + " " * 2_000_000, zip=True), "cannot be read: Decompressed data too large"),
    ],
)
def test_no_record(tmp_path, data, reason):
    path = tmp_path / "fox.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason) as refused:
        read_record(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_a_camera_s_note_is_no_record():
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"FUJIFILM\x0c\0\0\0"
    with pytest.raises(ValueError, match="no Marmo record"):
        find_record(BytesIO(file(PICTURE, "JPEG", exif=exif)))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "fox.png")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(encode_picture(PICTURE, record("a fox, 狐"), draw(st.sampled_from(SUFFIXES))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.sampled_from([start, start + 1, start + 4, len(data)]))
        data[start:stop] = draw(st.binary(max_size=6))
    return bytes(data)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(damaged() | st.binary(max_size=64))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_does_no_worse_than_a_value_error(data):
    with suppress(ValueError):
        assert find_record(BytesIO(data)).sigmas
    with suppress(ValueError):
        assert decode_image(data).mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=40).map(lambda text: "{" + text) | st.integers(0, 400).map(lambda cut: record().to_json()[:cut])
)
def test_no_text_chunk_does_worse_than_a_value_error(text):
    with pytest.raises(ValueError):
        find_record(BytesIO(png_with(text)))


# --- pictures that users bring ----------------------------------------------------------------------------------------


def colours(data: bytes) -> list[list[tuple[int, int, int]]]:
    return [[tuple(pixel) for pixel in row] for row in np.asarray(decode_image(data)).tolist()]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_modes_become_rgb(mode):
    picture = PICTURE.convert(mode)
    assert np.array_equal(np.asarray(decode_image(file(picture))), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_keep_their_high_byte():
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(decode_image(file(wide)))[..., 0], GREY)


def test_cmyk_becomes_rgb():
    red, green, blue = colours(file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[0][0]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_shows_white(format):
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))
    assert colours(file(picture, format, **({"lossless": True} if format == "WEBP" else {}))) == [
        [(255, 0, 0), (255, 255, 255)]
    ]


def test_a_transparent_colour_shows_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    assert colours(file(picture, transparency=0)) == [[(255, 255, 255), (0, 0, 255)]]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_turned_photograph_stands_upright(format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = Image.new("L", (16, 32), 0)
    picture.paste(255, (0, 16, 16, 32))  # the lower half, which a quarter turn clockwise brings to the left
    upright = decode_image(file(picture.convert("RGB"), format, exif=exif))
    assert upright.size == (32, 16)
    assert upright.getpixel((2, 8))[0] > 200 > 50 > upright.getpixel((29, 8))[0]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = file(frames[0], format, save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=8)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_cut_off_file_is_refused(format):
    data = file(Image.effect_noise((64, 64), 50).convert("RGB"), format)
    with pytest.raises(ValueError, match=r"PNG, JPEG or WebP|cannot be read"):
        decode_image(data[: len(data) // 2])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("side", "reason"), [(8001, "at most 64 million"), (10_000, "at most 64"), (65_000, "limit")])
def test_too_many_pixels_are_refused_by_the_header(side, reason):
    header = bytearray(file(PICTURE)[:33])
    header[16:24] = struct.pack(">II", side, side)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(ValueError, match=reason):
        decode_image(bytes(header) + file(PICTURE)[33:])


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(format):
    with pytest.raises(ValueError, match="no PNG, JPEG or WebP"):
        decode_image(file(PICTURE, format))


# --- the prompt, for measuring ----------------------------------------------------------------------------------------


def with_comment(comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return file(PICTURE, "JPEG", exif=exif)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_prompt_of_our_own_pictures(suffix):
    """From the record, which says it exactly, not from the infotext."""
    prompt = "a fox, 狐\nNegative prompt: none"
    assert find_prompt(encode_picture(PICTURE, record(prompt), suffix)) == prompt


OTHERS = "a fox, 狐\nNegative prompt: a dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (file(PICTURE, pnginfo=(chunks := PngInfo(), chunks.add_itxt("parameters", OTHERS))[0]), "a fox, 狐"),
        (with_comment(b"UNICODE\0" + OTHERS.encode("utf-16-be")), "a fox, 狐"),
        (with_comment(b"ASCII\0\0\0a fox"), "a fox"),
        (with_comment(b""), None),
        (file(PICTURE), None),
        (file(PICTURE, "WEBP"), None),
        (b"", None),
        (b"<html>", None),
    ],
)
def test_the_prompt_of_other_programs_pictures(data, prompt):
    assert find_prompt(data) == prompt


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 400))
def test_a_damaged_picture_has_a_prompt_or_none(noise, start):
    whole = file(PICTURE, pnginfo=(chunks := PngInfo(), chunks.add_itxt("parameters", OTHERS))[0])
    assert isinstance(find_prompt(whole[:start] + noise + whole[start + len(noise) :]), str | None)
