"""Pictures that clients send and get."""

import base64
from io import BytesIO

from PIL import Image


def picture(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    stream = BytesIO()
    Image.new(mode, size, "teal").save(stream, "PNG")
    return stream.getvalue()


def holed(size: tuple[int, int] = (64, 64)) -> bytes:
    """A picture whose left half is transparent."""
    image = Image.new("RGBA", size, "black")
    image.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def decoded(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(BytesIO(base64.b64decode(text)))
