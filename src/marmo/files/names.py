"""Where a picture goes: a pattern such as `{date}/{seed}-{prompt}`, below a folder and never outside it.

What a token stands for is slugged, so that only the pattern itself makes sub-folders; what the pattern says in its own
words must be a name on every system, Windows included.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from marmo.files.record import Record

PictureSuffix = Literal["png", "jpg", "webp"]

DEFAULT_PATTERN = "{date}-{time}-{seed}"

TOKENS: Mapping[str, Callable[[Record, datetime], object]] = {
    "seed": lambda record, now: record.seed,
    "index": lambda record, now: record.image,
    "date": lambda record, now: f"{now:%Y-%m-%d}",
    "time": lambda record, now: f"{now:%H%M%S}",
    "model": lambda record, now: record.model,
    "prompt": lambda record, now: record.request.prompt,
    "width": lambda record, now: record.request.width,
    "height": lambda record, now: record.request.height,
    "steps": lambda record, now: record.request.steps,
    "sampler": lambda record, now: record.request.sampler,
}

MAX_SLUG_BYTES = 60
MAX_NAME_BYTES = 240  # of the 255 that file systems have; the rest is for `.webp` and a number such as `-1000`

_TOKEN = re.compile(r"\{([^{}/]*)\}")
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\{}\ud800-\udfff]')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


def output_path(
    folder: Path, record: Record, now: datetime, pattern: str = DEFAULT_PATTERN, suffix: PictureSuffix = "png"
) -> Path:
    """The path below `folder` that `pattern` gives this picture; it may exist already, see `files.claim`.

    Raises `ValueError` for a pattern that `check_pattern` refuses, and for no record.
    """
    check_pattern(pattern)
    values = {name: slug(value(record, now)) for name, value in TOKENS.items()}
    parts = [_name(_TOKEN.sub(lambda token: values[token[1]], part)) for part in pattern.split("/")]
    return folder.joinpath(*parts[:-1], f"{parts[-1]}.{suffix}")


def check_pattern(pattern: str) -> None:
    """Raises `ValueError` for a token that does not exist and for what could not be a path below a folder."""
    for token in _TOKEN.findall(pattern):
        if token not in TOKENS:
            known = ", ".join(f"{{{name}}}" for name in TOKENS)
            raise ValueError(f"{{{token}}} in the file name pattern {pattern!r} does not exist; the tokens are {known}")
    for part in _TOKEN.sub("x", pattern).split("/"):
        if not part or part[0] == "~" or part[-1] in ". " or _FORBIDDEN.search(part) or _DEVICE.match(part):
            raise ValueError(
                f"the file name pattern {pattern!r} is not a path below the output folder: no part of it may be empty, "
                'begin with ~, end with a dot or a space, be a device of Windows, or hold \\ < > : " | ? * or controls'
            )


def model_name(path: str | Path | None) -> str | None:
    """What a model is called without where it lies; one in the hub's cache by its repository and commit."""
    if path is None:
        return None
    path = Path(path)
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return f"{path.parents[1].name.rpartition('--')[2]}@{path.name[:8]}"
    return path.name


def slug(value: object) -> str:
    """Letters and digits of any script, `_` and `-`; anything between them is one dash; at most 60 bytes of UTF-8."""
    text = "" if value is None else unicodedata.normalize("NFKC", str(value))
    spaced = "".join(char if char == "_" or unicodedata.category(char)[0] in "LMN" else " " for char in text)
    words = (word for word in spaced.split() if any(map(str.isalnum, word)))  # not a mark or selector alone
    return _cut("-".join(words), MAX_SLUG_BYTES).rstrip("-") or "none"


def _name(text: str) -> str:
    """`text` as the name of one file or folder, now that the tokens are filled in."""
    name = _cut(text, MAX_NAME_BYTES).rstrip(". ") or "_"
    return f"_{name}" if _DEVICE.match(name) else name


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, no character halved."""
    return text.encode()[:limit].decode(errors="ignore")
