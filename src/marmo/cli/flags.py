"""The request's fields as command-line flags, made from the schema: a new field is a new flag by itself.

Flags are parsed loosely and then validated by `ImageRequest`, so that a wrong value has the same words everywhere.
"""

import dataclasses
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast, get_args, get_origin

import tyro
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from marmo.cli.regions import region_from
from marmo.request import ImageRequest


def flags_of(schema: type[BaseModel], without: frozenset[str] = frozenset()) -> type:
    """A dataclass with a field for every field of the schema, all optional, which tyro turns into flags."""
    fields: list[tuple[str, Any, Any]] = []
    for name, info in schema.model_fields.items():
        if name in without:
            continue
        if isinstance(info.default, BaseModel):
            nested = flags_of(type(info.default))
            fields.append((name, nested, dataclasses.field(default_factory=nested)))
        else:
            flag = tyro.conf.arg(help=_help(info), help_behavior_hint="")
            fields.append((name, Annotated[_loose(info.annotation) | None, flag], dataclasses.field(default=None)))
    return dataclasses.make_dataclass(schema.__name__, fields, frozen=True)


def given(flags: object) -> dict[str, object]:
    """What was said on the command line: files as their bytes, nothing for the flags that were left out."""
    values: dict[str, object] = {}
    for field in dataclasses.fields(flags):  # pyright: ignore[reportArgumentType] made by `flags_of`
        value = getattr(flags, field.name)
        if field.name == "regions" and value is not None:
            values[field.name] = [region_from(text) for text in value]
        elif isinstance(value, Path):
            values[field.name] = value.read_bytes()
        elif dataclasses.is_dataclass(value):
            values[field.name] = given(value)
        elif value is not None:
            values[field.name] = value
    return values


def _loose(annotation: Any) -> Any:
    """The type as the command line takes it: any word for a name, a file for bytes."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _loose(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _loose(next(part for part in get_args(annotation) if part is not type(None)))
    if origin is tuple and isinstance(get_args(annotation)[0], type):  # of parts, one word each
        return tuple[str, ...]
    return {bytes: Path}.get(annotation, str if origin is Literal else annotation)


def _help(info: FieldInfo) -> str:
    names = _names(info.annotation)
    return f"{info.description}: {', '.join(names)}" if names else info.description or ""


def _names(annotation: Any) -> tuple[str, ...]:
    """The names that a field allows, if it is a field of names."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(name for part in get_args(annotation) for name in _names(part))


if TYPE_CHECKING:

    class RequestFlags:
        """A flag for every field of `ImageRequest` but the prompt."""
else:
    RequestFlags = flags_of(ImageRequest, without=frozenset({"prompt", "template"}))


def started_from(flags: RequestFlags, picture: Path) -> RequestFlags:
    """The same flags with this init_image."""
    return cast(RequestFlags, dataclasses.replace(flags, init_image=picture))  # pyright: ignore
