"""Other programs' masks as ours: black is kept, white is painted.

OpenAI marks by transparency what is painted; A1111 reads brightness, and opacity where a mask has transparent pixels.
"""

from io import BytesIO

from PIL import Image, ImageOps

from marmo.files.pictures import decode_transparency
from marmo.serve.dialects.bodies import refused
from marmo.serve.headers import read_header

MAX_PIXELS = 16_000_000
"""Of a mask whose transparency is read here, in the server's own process."""


def transparent_is_painted(data: bytes, field: str) -> bytes:
    """OpenAI's mask as a PNG file in black and white; `Problem` where nothing in it is transparent."""
    opacity = _opacity(data, field)
    if opacity is None:
        raise refused(f"{field}: what shall be painted must be transparent in it, and nothing is", field)
    return _png(ImageOps.invert(opacity))


def opaque_is_painted(data: bytes, field: str) -> bytes:
    """A1111's mask in black and white; one without transparent pixels stays as it is."""
    opacity = _opacity(data, field)
    return data if opacity is None else _png(opacity)


def _opacity(data: bytes, field: str) -> Image.Image | None:
    """The mask's opacity in grey; None where every pixel is opaque."""
    try:
        header = read_header(data)
        if header.width * header.height > MAX_PIXELS:
            raise ValueError(f"a mask may have at most {MAX_PIXELS // 1_000_000} million pixels")
        return decode_transparency(data)
    except ValueError as error:
        raise refused(f"{field}: {error}", field) from None


def _png(grey: Image.Image) -> bytes:
    stream = BytesIO()
    grey.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
