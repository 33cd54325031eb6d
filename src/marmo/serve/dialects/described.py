"""How the routes of other programs describe themselves in /openapi.json: bodies that are read by hand, and refusals."""

from typing import Any, cast

from pydantic import BaseModel

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "What was asked cannot be done, and why"},
    401: {"description": "No token, or a wrong one"},
    403: {"description": "The token's scope is not enough"},
    422: {"description": "The job came to nothing, and why"},
    429: {"description": "The queue is full; see Retry-After"},
    503: {"description": "No model is ready, or the server is closing; see Retry-After"},
    507: {"description": "The disk is full"},
}
"""In the form that the dialect's clients read."""

MISSING: dict[int | str, dict[str, Any]] = {501: {"description": "This server cannot do it, and why"}}


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """A JSON body of this class."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema_of(body)}}}}


def takes_form(fields: type[BaseModel]) -> dict[str, Any]:
    """A form with a picture, perhaps a mask, and these fields."""
    file = {"type": "string", "format": "binary"}
    schema = schema_of(fields)
    schema["properties"] |= {"image": file, "mask": file}
    schema["required"] = ["image", *schema["required"]]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def schema_of(body: type[BaseModel]) -> dict[str, Any]:
    """Its JSON Schema without references, which would have to lead to a part of the whole description."""
    schema = body.model_json_schema()
    parts = cast(dict[str, Any], schema.pop("$defs", {}))
    return cast(dict[str, Any], _inlined(schema, parts))


def _inlined(value: object, parts: dict[str, Any]) -> object:
    match value:
        case {"$ref": str(reference)}:
            return _inlined(parts[reference.rsplit("/", 1)[-1]], parts)
        case dict():
            return {key: _inlined(item, parts) for key, item in cast(dict[str, object], value).items()}
        case list():
            return [_inlined(item, parts) for item in cast(list[object], value)]
        case _:
            return value
