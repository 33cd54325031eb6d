"""What another program says about its picture, as a request, and what of it could not be carried over.

    A1111, Forge and many others   PNG text `parameters`, EXIF UserComment       foreign_a1111.py
    ComfyUI                        PNG text `prompt`, EXIF Model "prompt:..."    foreign_comfyui.py
    InvokeAI                       PNG text `invokeai_metadata`                  foreign_invokeai.py

All of it was written by strangers: it is bounded, it is checked as a request is, and it opens no file and chooses none.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from pydantic import ValidationError

from marmo.request import ImageRequest, explain

MAX_JSON_LENGTH = 4_000_000  # characters
MAX_DIGITS = 40
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class Foreign:
    """A picture of another program."""

    program: str
    request: ImageRequest
    """Without a model: this names what only its owner can open"""
    lost: tuple[str, ...] = ()
    """What could not be carried over, each by its name"""
    notes: tuple[str, ...] = ()
    """What else may make the picture another one, in a sentence each"""
    model: str | None = None
    """The model's name in that program"""
    model_hash: str | None = None
    """Ten hexadecimal digits of the file's sha256, or eight of A1111's old hash"""
    is_masked: bool = False
    """Whether only a part of a picture was painted, under a mask that only its owner has"""


def as_request(fields: Mapping[str, object], program: str) -> ImageRequest:
    """The request of these fields, None left out; `ValueError` in one sentence."""
    try:
        return ImageRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise ValueError(f"{program}'s description cannot be painted: {explain(error)}") from None


def short(text: str, length: int = 80) -> str:
    """A stranger's text as a part of a sentence: one line, without characters that would steer a terminal."""
    line = "".join(character if character.isprintable() else " " for character in text[: length + 1])
    return line if len(line) <= length else line[: length - 3] + "..."


def read_json(text: str, what: str) -> dict[str, Json]:
    """A JSON object; `ValueError` in one sentence for anything else."""
    if len(text) > MAX_JSON_LENGTH:
        raise ValueError(f"{what} has {len(text)} characters; at most {MAX_JSON_LENGTH} are read")
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no JSON object")
    return value


def number(value: object, what: str) -> float:
    """A finite number, also from text; `ValueError` names what it should have been."""
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else "?"
    if len(text) > MAX_DIGITS or NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise ValueError(f"{what} is {text[:MAX_DIGITS]!r}, which is no number")
    return float(text)


def whole_number(value: object, what: str) -> int:
    """The same, without a fraction."""
    result = number(value, what)
    if result != int(result):
        raise ValueError(f"{what} is {value!r}, which is no whole number")
    return int(str(value)) if str(value).strip().lstrip("+-").isdecimal() else int(result)
