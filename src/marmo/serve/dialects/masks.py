"""Other programs' masks as ours, black is kept and white is painted; and the texts inside a picture file.

OpenAI marks by transparency what is painted; A1111 reads brightness, and opacity where a mask has transparent pixels.
No stranger's picture is decoded in the server's own process: `apart` runs `main` in another, which may die of it.
"""

import json
import subprocess
import sys
from io import BytesIO
from typing import Literal

from PIL import Image, ImageOps

from marmo.files.pictures import decode_transparency, find_texts
from marmo.serve.dialects.bodies import refused
from marmo.serve.headers import read_header

Question = Literal["transparent", "opaque", "texts"]
"""Which pixels of a mask are painted; or the texts, as a JSON object."""

MAX_PIXELS = 16_000_000
"""Of a mask that is read for its transparency."""
MAX_SECONDS = 10
"""Of the other process's work, and thrice that until it has answered."""
MAX_MEMORY = 2 << 30  # bytes

_REFUSED = 3
_CHILD = "import sys; sys.path[:] = sys.argv[2].split('\\n'); from marmo.serve.dialects.masks import main; main()"


def apart(question: Question, data: bytes, field: str) -> bytes:
    """The answer of the other process; `Problem` for a picture that has none.  Waits: call it in a thread."""
    command = [sys.executable, "-c", _CHILD, question, "\n".join(sys.path)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=3 * MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise refused(f"{field}: reading the picture took too long", field) from None
    if done.returncode == 0:
        return done.stdout
    said = done.stdout.decode("utf-8", "replace") if done.returncode == _REFUSED else "the picture cannot be read"
    raise refused(f"{field}: {said[:300]}", field)


def may_be_transparent(data: bytes) -> bool:
    """Whether a PNG's first bytes promise an alpha channel or a transparent colour."""
    return data.startswith(b"\x89PNG") and (data[25:26] in (b"\4", b"\6") or b"tRNS" in data[:4096])


def main() -> None:
    """Answers one question about the picture on standard input."""
    _limit()
    try:
        answer = respond(sys.argv[1], sys.stdin.buffer.read())
    except ValueError as error:
        sys.stdout.write(str(error))
        sys.exit(_REFUSED)
    sys.stdout.buffer.write(answer)


def respond(question: str, data: bytes) -> bytes:
    """What `main` writes; `ValueError` for what cannot be answered."""
    if question == "texts":
        return json.dumps(find_texts(data)).encode()
    header = read_header(data)
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f"a mask may have at most {MAX_PIXELS // 1_000_000} million pixels")
    opacity = decode_transparency(data)
    if question == "opaque":
        return data if opacity is None else _png(opacity)
    if opacity is None:
        raise ValueError("what shall be painted must be transparent in it, and nothing is")
    return _png(ImageOps.invert(opacity))


def _png(grey: Image.Image) -> bytes:
    stream = BytesIO()
    grey.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _limit() -> None:
    """Memory and time, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
