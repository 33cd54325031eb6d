"""A folder of pictures in which everything that users bring is wrong once."""

import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

RED, CAPTION = (200, 30, 30), b"a red square"


def plain(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (width, height), RED).convert(mode)


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    stream = BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def noise(format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(Image.fromarray(pixels), format)


def huge() -> bytes:
    """The header of 10,000 x 10,000 pixels; nobody shall look further."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def turned() -> bytes:
    """64 x 48 on disk, 48 x 64 upright, its upper half blue on disk and therefore its right half upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = plain()
    picture.paste((30, 30, 200), (0, 0, 64, 24))
    return encoded(picture, "JPEG", exif=exif, quality=95)


# name -> the picture, its caption, what a report says; nothing where all is well
PLANTED: Mapping[str, tuple[bytes, bytes | None, tuple[str, ...]]] = {
    "good.png": (encoded(plain(), "PNG"), CAPTION, ()),
    "good.jpg": (encoded(plain(), "JPEG"), CAPTION, ()),
    "good.webp": (encoded(plain(), "WEBP"), CAPTION, ()),
    "chinese.png": (encoded(plain(), "PNG"), "一只红色的狐狸".encode(), ()),
    "marked.png": (encoded(plain(), "PNG"), b"\xef\xbb\xbfa red square\r\n", ()),
    "truncated.png": (noise("PNG")[:6000], CAPTION, ("damaged",)),
    "truncated.jpg": (noise("JPEG")[:1500], CAPTION, ("damaged",)),
    "truncated.webp": (noise("WEBP")[:900], CAPTION, ("damaged",)),
    "cmyk.jpg": (encoded(plain(mode="CMYK"), "JPEG"), CAPTION, ("CMYK",)),
    "deep.png": (encoded(Image.fromarray(np.full((48, 64), 40_000, np.uint16)), "PNG"), CAPTION, ("16 bits",)),
    "moving.webp": (
        encoded(plain(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")]),
        CAPTION,
        ("animated",),
    ),
    "moving.png": (
        encoded(plain(), "PNG", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")]),
        CAPTION,
        ("animated",),
    ),
    "moving.gif": (encoded(plain(), "GIF"), CAPTION, ("damaged",)),
    "nothing.jpg": (b"", CAPTION, ("empty",)),
    "turned.jpg": (turned(), CAPTION, ("turned",)),
    "pixel.png": (encoded(plain(1, 1), "PNG"), CAPTION, ("too small",)),
    "huge.png": (huge(), CAPTION, ("too large",)),
    "page.jpg": (b"<html>404</html>", CAPTION, ("damaged",)),
    "glass.png": (encoded(Image.new("RGBA", (64, 48), (0, 0, 0, 0)), "PNG"), CAPTION, ("transparent",)),
    "wordless.png": (encoded(plain(), "PNG"), None, ("no caption",)),
    "silent.png": (encoded(plain(), "PNG"), b" \n", ("caption is empty",)),
    "latin.png": (encoded(plain(), "PNG"), "un carré rouge".encode("latin-1"), ("caption is no text",)),
    "chinese-gbk.png": (encoded(plain(), "PNG"), "红色".encode("gbk"), ("caption is no text",)),
    "binary.png": (encoded(plain(), "PNG"), b"a\0b", ("caption is no text",)),
    "windows.png": (encoded(plain(), "PNG"), "a red square".encode("utf-16"), ("caption in UTF-16",)),
    "both.jpg": (noise("JPEG")[:1500], None, ("damaged", "no caption")),
}


def plant(folder: Path) -> Path:
    """Write the collection."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (picture, caption, _) in PLANTED.items():
        (folder / name).write_bytes(picture)
        if caption is not None:
            (folder / name).with_suffix(".txt").write_bytes(caption)
    return folder
