"""Picture files, PNG, JPEG and WebP: saved with their record inside, read back, and decoded when a user brings one.

Where the record (JSON) and A1111's infotext stand:

    PNG         text chunks `marmo` and `parameters`: tEXt if Latin-1 can write them, iTXt otherwise
    JPEG, WebP  EXIF MakerNote (UTF-8) and UserComment ("UNICODE", NUL, UTF-16BE, as A1111 writes it)

The record is looked for in both places, so it survives a change of format that keeps text or EXIF.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffTags, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from marmo.files.atomic import atomic_write
from marmo.files.foreign import Foreign
from marmo.files.foreign_a1111 import read_a1111
from marmo.files.foreign_comfyui import read_comfyui
from marmo.files.foreign_invokeai import read_invokeai
from marmo.files.infotext import infotext, parse_infotext
from marmo.files.record import Record

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

READERS: Mapping[str, Callable[[str], Foreign]] = {
    "invokeai_metadata": read_invokeai,
    "prompt": read_comfyui,
    "parameters": read_a1111,
}
"""Text chunk of a PNG -> who reads it, in the order in which they are asked."""

MAX_PIXELS = 64_000_000
MAX_RECORD_LENGTH = 4_000_000  # a request's longest prompts take a third of it
MAX_JPEG_EXIF_BYTES = 65_533  # what one JPEG segment holds


def save_picture(path: Path, picture: Image.Image, record: Record, quality: int = 95) -> None:
    """Writes the picture and its record to `path`, in the format that its suffix names, whole or not at all."""
    data = encode_picture(picture, record, path.suffix, quality)
    with atomic_write(path) as stream:
        stream.write(data)


def encode_picture(picture: Image.Image, record: Record, suffix: str, quality: int = 95) -> bytes:
    """The bytes of a `.png`, `.jpg`, `.jpeg` or `.webp` file; `quality` is 1 to 100, WebP is lossless at 100.

    Raises `ValueError` for another suffix or quality, and for a record (an endless prompt) too long for a JPEG.
    """
    format = FORMATS.get(suffix.lower())
    if format is None:
        raise ValueError(f"a picture file ends in {', '.join(FORMATS)}, not in {suffix!r}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is 1 to 100, not {quality}")
    stream = BytesIO()
    match format:
        case "PNG":
            picture.save(stream, format, pnginfo=_text_chunks(record))
        case "JPEG":
            picture.save(stream, format, quality=quality, exif=_short_exif(record))
        case _:
            picture.save(stream, format, quality=quality, lossless=quality == 100, exif=_exif(record))
    return stream.getvalue()


def read_record(path: Path) -> Record:
    """The record inside a picture file; `ValueError`, naming the file, if there is none that can be read."""
    with path.open("rb") as stream:
        try:
            return find_record(stream)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def find_record(stream: BinaryIO) -> Record:
    """The record inside an open picture file, whose pixels are not decoded where the record precedes them."""
    text = _find_text(_open(stream))
    if text is None:
        raise ValueError("the picture holds no Marmo record")
    if len(text) > MAX_RECORD_LENGTH:
        raise ValueError(f"the picture's record is {len(text)} long; at most {MAX_RECORD_LENGTH} is read")
    return Record.from_json(text)


def find_prompt(data: bytes) -> str | None:
    """The prompt that a picture file names: in its record, else in A1111's infotext; `None` where it names none."""
    try:
        image = _open(BytesIO(data))
        texts, record = _texts(image), _record_text(image)
        if record is not None and len(record) <= MAX_RECORD_LENGTH:
            with suppress(ValueError):  # another program's, or a newer Marmo's: the infotext may be there still
                return Record.from_json(record).request.prompt
        return parse_infotext(texts.get("parameters", "")).prompt or None
    except ValueError:
        return None


def read_description(path: Path) -> Record | Foreign:
    """Marmo's record, or without one what another program wrote; `ValueError`, naming the file, if there is neither."""
    with path.open("rb") as stream:
        try:
            find = find_foreign if _find_text(_open(stream)) is None else find_record
            stream.seek(0)
            return find(stream)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def find_foreign(stream: BinaryIO) -> Foreign:
    """What another program wrote into an open picture file; its own form goes before infotext, which many add."""
    texts = _texts(_open(stream))
    for key, read in READERS.items():
        if key in texts:
            return read(texts[key])
    raise ValueError(f"the picture holds no record of Marmo and no text that it knows ({', '.join(READERS)})")


def _texts(image: Image.Image) -> dict[str, str]:
    """All text of a picture, wherever it stands."""
    with _pillow_errors():
        if image.format == "PNG":
            image.load()  # text may stand behind the pixels
        texts = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
        return texts | _exif_texts(image)


def decode_image(data: bytes) -> Image.Image:
    """The RGB picture in a PNG, JPEG or WebP file, upright as its EXIF says; of an animation the first frame.

    Transparency shows white, as in A1111 (diffusers would show the colours hidden below it); 16 bits become 8 by their
    high byte; colour profiles are ignored.  Raises `ValueError` for another format, a damaged or cut-off file, and more
    than 64 megapixels, which the header tells before anything is decoded.
    """
    image = _open(BytesIO(data))
    with _pillow_errors():
        return _to_rgb(ImageOps.exif_transpose(image))


def decode_mask(data: bytes) -> Image.Image:
    """The grey picture in a file, as `decode_image` reads it; colours count by their brightness.

    Raises `ValueError` for a mask with transparency, which some programs mean as painted and others as kept.
    """
    image = _open(BytesIO(data))
    with _pillow_errors():
        image = ImageOps.exif_transpose(image)
        is_opaque = not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
        grey = _to_rgb(image).convert("L")
    if not is_opaque:
        raise ValueError("transparency may mean either part; give one in black and white")
    return grey


def _open(stream: BinaryIO) -> Image.Image:
    with _pillow_errors():
        image = Image.open(stream, formats=tuple(set(FORMATS.values())))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"the picture has {image.width} x {image.height} pixels; at most {MAX_PIXELS // 1_000_000} million are read"
        )
    return image


@contextmanager
def _pillow_errors() -> Generator[None]:
    """Pillow's readers raise whatever broke first, OSError, SyntaxError or struct.error; here it is `ValueError`."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("this is no PNG, JPEG or WebP picture, or its beginning is damaged") from None
    except Exception as error:
        raise ValueError(f"the picture cannot be read: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":  # `convert` would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _text_chunks(record: Record) -> PngInfo:
    chunks = PngInfo()
    chunks.add_text("marmo", record.to_json())
    chunks.add_text("parameters", infotext(record))
    return chunks


def _exif(record: Record) -> bytes:
    """Both fields have the type UNDEFINED, without which A1111 misreads them; Pillow's own `Exif` writes BYTE."""
    fields, root = ImageFileDirectory_v2(), ImageFileDirectory_v2()
    fields.tagtype = dict.fromkeys((ExifTags.Base.MakerNote, ExifTags.Base.UserComment), TiffTags.UNDEFINED)
    fields[ExifTags.Base.MakerNote] = record.to_json().encode()
    fields[ExifTags.Base.UserComment] = b"UNICODE\0" + infotext(record).encode("utf-16-be")
    root[ExifTags.IFD.Exif] = 26  # where the fields start: behind 8 bytes of header and 18 of this directory
    return b"Exif\0\0" + b"II*\0\x08\0\0\0" + root.tobytes(8) + fields.tobytes(26)


def _short_exif(record: Record) -> bytes:
    exif = _exif(record)
    if len(exif) > MAX_JPEG_EXIF_BYTES:
        raise ValueError(
            f"the record takes {len(exif)} bytes, and a JPEG has room for {MAX_JPEG_EXIF_BYTES}; save a PNG or a WebP"
        )
    return exif


def _find_text(image: Image.Image) -> str | bytes | None:
    with _pillow_errors():
        text = _record_text(image)
        if text is None and image.format == "PNG":
            image.load()  # its text may stand behind the pixels
            text = _record_text(image)
    return text


def _record_text(image: Image.Image) -> str | bytes | None:
    text = image.info.get("marmo")
    if text is None:
        text = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.MakerNote)
    is_ours = isinstance(text, str | bytes) and text[:1] in ("{", b"{")  # a camera's note is not
    return text if is_ours else None


def _exif_texts(image: Image.Image) -> dict[str, str]:
    """A1111's infotext in UserComment; ComfyUI's graph, in WebP files, in Model and Make, after its key."""
    exif = image.getexif()
    texts: dict[str, str] = {}
    for tag in (ExifTags.Base.Model, ExifTags.Base.Make):
        key, _, text = str(exif.get(tag, "")).partition(":")
        if key == "prompt":
            texts[key] = text
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes | str) and comment:
        texts["parameters"] = _user_comment(comment)
    return texts


def _user_comment(comment: bytes | str) -> str:
    """Eight bytes name the encoding.  Of UTF-16 some programs write the low byte first; the high one is mostly 0."""
    data = comment.encode("latin-1", "replace") if isinstance(comment, str) else comment
    code, text = data[:8], data[8:]
    if code == b"UNICODE\0":
        is_little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if is_little else "utf-16-be", "replace")
    return (text if code in (b"ASCII\0\0\0", b"\0" * 8) else data).decode("utf-8", "replace")
