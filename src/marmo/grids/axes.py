"""The axes of a grid: which field of the request changes, and through which values, in A1111's notation.

steps=10, 20, 30          a list; quotes around what holds a comma
steps=1-10                a range, both ends included
steps=1-10 (+3)           in steps of three: 1, 4, 7, 10
guidance_scale=1-10 [5]   five values, evenly spaced: 1, 3.25, 5.5, 7.75, 10
prompt=S/R fox, cat       search and replace: the prompt itself, then with cat for fox
"""

import csv
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import floor
from typing import Annotated, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel

from marmo.request import ImageRequest

MAX_VALUES = 1000
ALIASES = {"cfg": "guidance_scale", "cfg_scale": "guidance_scale", "checkpoint": "model", "denoising": "strength"}
"""What people write -> the field."""
NO_AXIS = {"init_image", "mask", "template", "num_images", "regions"}
"""Pictures are files; a cell holds one picture."""

_NUMBER = r"[+-]?\d+(?:\.\d*)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*({_NUMBER})\s*\)|\[\s*(\d+)\s*\])?\s*")
_REPLACE = re.compile(r"\s*S/R\b", re.IGNORECASE)


@dataclass(frozen=True)
class Axis:
    """One field and its values, as text."""

    field: str
    """A field of the request, or with a dot a field of a field"""
    values: tuple[str, ...]
    search: str | None = None
    """What is replaced by each value; none sets the field"""

    def label(self, value: str) -> str:
        """What stands beside the row or above the column."""
        return value if self.search is not None else f"{self.field} {value}"

    def put(self, fields: Mapping[str, object], value: str) -> dict[str, object]:
        """The request's fields with this value.  `ValueError` where there is nothing to replace."""
        outer, _, inner = self.field.partition(".")
        if self.search is not None:
            text = fields.get(outer)
            if not isinstance(text, str) or self.search not in text:
                raise ValueError(f"the {outer} holds no {self.search!r} that S/R could replace")
            return {**fields, outer: text.replace(self.search, value)}
        if not inner:
            return {**fields, outer: value}
        nested = cast(Mapping[str, object], fields.get(outer) or {})
        return {**fields, outer: {**nested, inner: value}}


def read_axis(text: str) -> Axis:
    """`field=values`; `ValueError`, in one sentence, for a field that does not exist or has no such values."""
    name, equals, rest = text.partition("=")
    name = name.strip().lower().replace("-", "_").replace(" ", "_")
    field = ALIASES.get(name, name)
    if not equals or not rest.strip():
        raise ValueError(f"an axis is a field, = and values, such as steps=10, 20, 30; not {text!r:.100}")
    kind = _kind(field)
    replace = _REPLACE.match(rest) if kind is str else None
    values = _split(rest[replace.end() :] if replace else rest)
    if replace is not None:
        return Axis(field, tuple(values), search=values[0])
    expanded = [each for value in values for each in (_range(value, kind) if kind in (int, float) else [value])]
    if len(expanded) > MAX_VALUES:
        raise ValueError(f"the axis {field} has {len(expanded)} values; at most {MAX_VALUES} are painted")
    return Axis(field, tuple(expanded))


def _split(text: str) -> list[str]:
    """Between commas, as in a CSV file."""
    (row,) = csv.reader([text.replace("\n", " ")], skipinitialspace=True)
    values = [value.strip() for value in row if value.strip()]
    if not values:
        raise ValueError(f"an axis has no values in {text!r:.100}")
    return values


def _range(text: str, kind: type) -> list[str]:
    """The numbers of a range, or the text itself."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return [text]
    start, end = float(found[1]), float(found[2])
    if found[4] is not None:
        count = int(found[4])
        if not 1 <= count <= MAX_VALUES:
            raise ValueError(f"{text.strip()!r:.60} asks for {count} values; 1 to {MAX_VALUES} are possible")
        numbers = [start + (end - start) * index / max(count - 1, 1) for index in range(count)]
    else:
        numbers = _stepped(start, end, float(found[3]) if found[3] else 1.0 if end >= start else -1.0, text)
    return [str(int(number)) if kind is int else f"{round(number, 9):g}" for number in numbers]


def _stepped(start: float, end: float, step: float, text: str) -> list[float]:
    if step == 0 or (end - start) / step < 0:
        raise ValueError(f"{text.strip()!r:.60} never gets from {start:g} to {end:g} in steps of {step:g}")
    count = floor((end - start) / step + 1e-9) + 1
    if count > MAX_VALUES:
        raise ValueError(f"{text.strip()!r:.60} has {count} values; at most {MAX_VALUES} are painted")
    return [start + step * index for index in range(count)]


def _kind(field: str) -> type:
    """Whether the field is a number, and which; all else is text."""
    outer, dot, inner = field.partition(".")
    if outer not in ImageRequest.model_fields or outer in NO_AXIS:
        _refuse(outer)
    info = ImageRequest.model_fields[outer]
    part: object = info.default
    if not isinstance(part, BaseModel):
        if dot:
            raise ValueError(f"{field} is no axis; say {outer}")
        return _plain(info.annotation)
    inside = type(part).model_fields
    if inner not in inside:
        fields = ", ".join(f"{outer}.{name}" for name in inside)
        raise ValueError(f"{field} is no axis; say {fields}" if not dot else f"{outer} has no field {inner!r:.60}")
    return _plain(inside[inner].annotation)


def _refuse(field: str) -> None:
    known = [name for name in ImageRequest.model_fields if name not in NO_AXIS]
    near = get_close_matches(field, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"an axis may be {', '.join(known)}"
    raise ValueError(f"{field!r:.60} is no axis of a grid; {hint}")


def _plain(annotation: object) -> type:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    if origin is Literal:
        return str
    return int if annotation is int else float if annotation is float else str
