"""Format and size of a picture file from its first bytes, without decoding: what the server may know of an upload.

PNG     signature, then the chunk IHDR                                   W3C PNG, 11.2.1
JPEG    segments up to a start of frame; width and height stand in it    ITU T.81, B.2.2
WebP    RIFF, then VP8X, `VP8 ` or VP8L                                   RFC 9649, 2

A file may still be damaged behind its header; that shows where it is decoded, in the worker.
"""

import struct
from dataclasses import dataclass
from typing import Literal

PictureFormat = Literal["PNG", "JPEG", "WEBP"]

MAX_SEGMENTS = 1000
"""Of a JPEG before its frame; cameras write under a hundred."""


@dataclass(frozen=True)
class Header:
    """What a picture file says it is."""

    format: PictureFormat
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Raises `ValueError` for anything but the beginning of a PNG, JPEG or WebP picture that has a size."""
    try:
        header = _read(data)
    except (struct.error, IndexError):
        raise ValueError("the picture breaks off in its header") from None
    if header is None:
        raise ValueError("this is no PNG, JPEG or WebP picture, or its beginning is damaged")
    if header.width == 0 or header.height == 0:
        raise ValueError("the picture has no pixels")
    return header


def _read(data: bytes) -> Header | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _png(data: bytes) -> Header | None:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    return Header("PNG", width, height) if (length, kind) == (13, b"IHDR") else None


def _jpeg(data: bytes) -> Header | None:
    position = 2
    for _ in range(MAX_SEGMENTS):
        while data[position] == 0xFF and data[position + 1] == 0xFF:  # fill bytes
            position += 1
        mark, kind = data[position], data[position + 1]
        if mark != 0xFF or kind == 0xDA:  # a scan without a frame
            return None
        (length,) = struct.unpack_from(">H", data, position + 2)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # tables and extensions share the range
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Header("JPEG", width, height)
        if length < 2:
            return None
        position += 2 + length
    return None


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header("WEBP", width, height) if len(data) >= 30 else None
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF)
    return None
