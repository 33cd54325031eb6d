"""What foreign bodies have in common: a problem that names the client's own field, a model by any of its names,
pictures in base64, and the way into an `ImageRequest`.

Nothing here fetches an address or opens a file.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from marmo.request import ImageRequest, explain
from marmo.serve.contract import Model
from marmo.serve.problems import Problem
from marmo.solver_names import short

SHORT_HASH = 10  # digits of a sha256 that A1111 shows beside a model's name

MAGIC: Mapping[bytes, str] = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}
"""How a picture file begins -> its format."""


def refused(message: str, field: str | None = None, code: str = "invalid_value", status: int = 400) -> Problem:
    """What cannot be done, in one sentence for the client's user; `field` is the body's own name of it."""
    return Problem(status, code, message, facts={"field": field} if field else {})


Body = TypeVar("Body", bound=BaseModel)


def read_body(kind: type[Body], body: object, field_names: Mapping[str, str] | None = None) -> Body:
    """A body as its class; `Problem` for the first field that is wrong."""
    if not isinstance(body, Mapping):
        raise refused(f"the body must be a JSON object, not {short(body)}", code="invalid_type")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, field_names or {}) from None


def as_request(fields: Mapping[str, object], field_names: Mapping[str, str]) -> ImageRequest:
    """The request with these fields, `None` being the model's default.

    `field_names` says what the dialect calls our fields, so that a refusal speaks of what the client sent.
    """
    try:
        return ImageRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error, field_names) from None


def renamed(message: str, field_names: Mapping[str, str]) -> str:
    """A sentence of ours with the dialect's names of the fields."""
    for ours, theirs in field_names.items():
        message = re.sub(rf"(?<![\w.]){re.escape(ours)}(?![\w.])", theirs, message)
    return message


def _refusal(error: ValidationError, field_names: Mapping[str, str]) -> Problem:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    field = next((theirs for ours, theirs in field_names.items() if place == ours), place) or None
    codes = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    return refused(_sentence(error, field_names), field, codes.get(first["type"], "invalid_value"))


def _sentence(error: ValidationError, field_names: Mapping[str, str]) -> str:
    """`explain`, but a body's own field is named as it stands, whether we know it or not."""
    if error.title == ImageRequest.__name__:
        return renamed(explain(error), field_names)
    clauses: list[str] = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"])
        message = (
            item["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
        )
        given = "" if item["type"] in ("missing", "extra_forbidden") else f", not {short(item['input'])}"
        clauses.append(f"{place[:100]}: {message}{given}")
    return "; ".join(clauses[:5])


def title(model: Model) -> str:
    """A model's name as A1111 shows it: with the first digits of its sha256."""
    return f"{model.id} [{model.sha256[:SHORT_HASH]}]"


def find_model(name: str, models: Sequence[Model], field: str, status: int = 400) -> Model:
    """The model of this id, title or sha256, whole or its first digits, with or without a file's suffix."""
    wanted = name.strip().removesuffix(".safetensors").casefold()
    for model in models:
        spellings = (model.id, model.title, title(model), model.sha256, model.sha256[:SHORT_HASH])
        if wanted in (spelling.casefold() for spelling in spellings):
            return model
    known = ", ".join(model.id for model in models[:20]) or "none is loaded"
    raise refused(f"the model {short(name)} does not exist; there are: {known}", field, "model_not_found", status)


def default_model(models: Sequence[Model]) -> Model:
    """The first of the catalogue; `Problem` (503) while there is none."""
    if not models:
        raise refused("no model is ready; try again in a moment", "model", "no_model", 503)
    return models[0]


def read_picture(text: str, field: str) -> bytes:
    """The bytes of a picture in base64, with or without a data URL's prefix; they are looked at, not decoded."""
    if text[:8].lower().startswith(("http://", "https://")):
        raise refused(f"{field}: addresses are not fetched here; send the picture itself in base64", field)
    encoded = text.partition(",")[2] if text[:5].lower() == "data:" else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:
        raise refused(f"{field}: this is no picture in base64", field) from None
    if picture_format(data) is None:
        raise refused(f"{field}: this is no PNG, JPEG or WebP file", field)
    return data


def picture_format(data: bytes) -> str | None:
    """png, jpeg or webp by the file's first bytes; None for anything else."""
    kind = next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
    return None if kind == "webp" and data[8:12] != b"WEBP" else kind
