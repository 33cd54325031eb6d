"""Hugging Face's inference under /models/{id}: a prompt or a picture in, a picture's bytes out."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from marmo.serve.context import Caller, Dialect, Here
from marmo.serve.dialects.described import REFUSALS, takes
from marmo.serve.dialects.exchange import handed_in, painted, read_json
from marmo.serve.dialects.huggingface_request import FIELD_NAMES, FORMATS, Body, read_accept, read_inference
from marmo.serve.dialects.openai_answer import encode
from marmo.serve.problems import Problem

PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"description": "A picture file", "content": {kind: {} for kind in FORMATS}}
}

router = APIRouter(prefix="/models", tags=["Hugging Face inference"], responses=REFUSALS)


@router.post("/{model:path}", response_class=Response, responses=PICTURES, openapi_extra=takes(Body))
async def inference(model: str, http: Request, here: Here, caller: Caller) -> Response:
    """One picture, in the format that the header `Accept` asks for."""
    format = read_accept(http.headers.get("accept"))
    request = await read_json(http, lambda body: read_inference(body, model, here.jobs.models))
    job = await handed_in(here, caller, request, FIELD_NAMES)
    _, (picture,) = await painted(here, http, job)
    return Response(await asyncio.to_thread(encode, picture, format, 95), media_type=f"image/{format}")


def envelope(problem: Problem) -> dict[str, object]:
    """The form of every error; `error` is what the client shows."""
    return {"error": problem.message, "error_type": problem.code}


DIALECT = Dialect("huggingface", "/models/", router, envelope)
