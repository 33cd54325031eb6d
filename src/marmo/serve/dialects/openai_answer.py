"""OpenAI's Images API: what is answered.  Pure functions from pictures and problems to JSON objects and events.

The token counts that its events must hold are all 0: nothing here is counted or billed by tokens.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Literal

from PIL import Image

from marmo.files.pictures import encode_picture, find_record
from marmo.serve.contract import Model
from marmo.serve.dialects.openai_request import Format, Wanted
from marmo.serve.problems import Problem

Kind = Literal["image_generation", "image_edit"]
NO_TOKENS: Mapping[str, object] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def models_list(models: Sequence[Model]) -> dict[str, object]:
    """`GET /v1/models`."""
    return {"object": "list", "data": [model_item(model) for model in models]}


def model_item(model: Model) -> dict[str, object]:
    """One model.  Nobody knows when it was made, so that is 0."""
    return {"id": model.id, "object": "model", "created": 0, "owned_by": "marmo"}


def envelope(problem: Problem) -> dict[str, object]:
    """The form of every error."""
    kind = TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    field = problem.facts.get("field")
    return {"error": {"message": problem.message, "type": kind, "param": field, "code": problem.code}}


def images_response(
    wanted: Wanted, pictures: Sequence[bytes], created: int, addresses: Sequence[str]
) -> dict[str, object]:
    """Pictures (PNG files) in base64 and the format that was asked for, or where they are."""
    coded = [base64.b64encode(encode(data, wanted.format, wanted.compression)).decode() for data in pictures]
    by_url = [{"url": address} for address in addresses]
    return {
        "created": created,
        "data": by_url if wanted.by_url else [{"b64_json": text} for text in coded],
        "background": "opaque",
        "output_format": wanted.format,
        "quality": wanted.quality,
        "size": size(pictures[0]),
    }


def partial_event(kind: Kind, wanted: Wanted, preview: bytes, index: int, whole: tuple[int, int], created: int) -> str:
    """A preview, enlarged to the size of the picture that it announces (width, height)."""
    picture = Image.open(BytesIO(preview), formats=["JPEG", "PNG"]).convert("RGB").resize(whole)
    stream = BytesIO()
    picture.save(stream, wanted.format.upper(), quality=wanted.compression or 1)
    fields = {**_described(wanted, stream.getvalue(), created), "partial_image_index": index}
    return event(f"{kind}.partial_image", fields)


def completed_event(kind: Kind, wanted: Wanted, picture: bytes, created: int) -> str:
    """The picture itself, a PNG file."""
    data = encode(picture, wanted.format, wanted.compression)
    return event(f"{kind}.completed", {**_described(wanted, data, created), "usage": NO_TOKENS})


def error_event(problem: Problem) -> str:
    """What ends a stream that has come to nothing."""
    return event("error", envelope(problem))


def event(name: str, fields: Mapping[str, object]) -> str:
    """One server-sent event."""
    text = json.dumps({"type": name, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n"


def _described(wanted: Wanted, data: bytes, created: int) -> dict[str, object]:
    return {
        "b64_json": base64.b64encode(data).decode(),
        "created_at": created,
        "size": size(data),
        "quality": wanted.quality,
        "background": "opaque",
        "output_format": wanted.format,
    }


def size(data: bytes) -> str:
    """As `512x768`, read from a picture's header."""
    width, height = Image.open(BytesIO(data)).size
    return f"{width}x{height}"


def encode(data: bytes, format: Format, quality: int = 100) -> bytes:
    """A PNG file of ours as another format, with its record, unless a JPEG has no room for that."""
    if format == "png":
        return data
    picture = Image.open(BytesIO(data), formats=["PNG"])
    record, kept = find_record(BytesIO(data)), max(quality, 1)
    try:
        return encode_picture(picture, record, f".{format}", kept)
    except ValueError:
        stream = BytesIO()
        picture.save(stream, format.upper(), quality=kept)
        return stream.getvalue()
