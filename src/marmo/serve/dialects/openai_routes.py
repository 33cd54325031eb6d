"""OpenAI's Images API under /v1: models, generations, edits, and both as streams with partial pictures."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from marmo.serve.context import Caller, Context, Dialect, Here, followed
from marmo.serve.dialects.bodies import find_model, refused
from marmo.serve.dialects.described import REFUSALS, takes, takes_form
from marmo.serve.dialects.exchange import handed_in, painted, pictures_of, read_json
from marmo.serve.dialects.masks import apart
from marmo.serve.dialects.openai_answer import (
    Kind,
    completed_event,
    envelope,
    error_event,
    images_response,
    model_item,
    models_list,
    partial_event,
)
from marmo.serve.dialects.openai_request import FIELD_NAMES, Edit, Generation, Wanted, read_edit, read_generation
from marmo.serve.job import Job, JobEvent
from marmo.serve.limits import final_size
from marmo.serve.refusals import draining, failed
from marmo.serve.tokens import User

MAX_FILES = 17  # sixteen pictures and a mask
MAX_FIELDS = 40
ALIVE = ": alive\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Pictures, or with `stream` events",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}

router = APIRouter(prefix="/v1", tags=["OpenAI Images"], responses=REFUSALS)


@router.get("/models")
async def models(here: Here) -> dict[str, object]:
    """The models, the default first."""
    return models_list(here.jobs.models)


@router.get("/models/{model}")
async def model(model: str, here: Here) -> dict[str, object]:
    """One model."""
    return model_item(find_model(model, here.jobs.models, "model", status=404))


@router.post("/images/generations", responses=ANSWERS, openapi_extra=takes(Generation))
async def generations(http: Request, here: Here, caller: Caller) -> Response:
    """Pictures from a prompt."""
    wanted = await read_json(http, lambda body: read_generation(body, here.jobs.models))
    return await _answer(http, here, caller, wanted, "image_generation")


@router.post("/images/edits", responses=ANSWERS, openapi_extra=takes_form(Edit))
async def edits(http: Request, here: Here, caller: Caller) -> Response:
    """A picture painted again, all of it or under a mask; the body is a form with files."""
    fields, images, mask = await read_form(http)
    wanted = read_edit(fields, images, mask, here.jobs.models)
    if mask is not None:
        painted = await asyncio.to_thread(apart, "transparent", mask, "mask")
        wanted = replace(wanted, request=wanted.request.model_copy(update={"mask": painted}))
    return await _answer(http, here, caller, wanted, "image_edit")


DIALECT = Dialect("openai", "/v1/", router, envelope, frozenset({"/v1/images/edits"}))


async def read_form(http: Request) -> tuple[dict[str, str], list[bytes], bytes | None]:
    """The form's fields, its pictures (`image` or `image[]`) and its mask; `Problem` for one that cannot be read."""
    try:
        async with http.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=500_000) as form:
            return await _read_parts(form)
    except HTTPException as error:
        raise refused(f"the form cannot be read: {error.detail}", code="invalid_form") from None


async def _read_parts(form: FormData) -> tuple[dict[str, str], list[bytes], bytes | None]:
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    for name, value in form.multi_items():
        plain = name.removesuffix("[]")
        if isinstance(value, UploadFile) != (plain in files):
            raise refused(f"{plain[:100]} must {'' if plain in files else 'not '}be a file", plain[:100])
        if isinstance(value, UploadFile):
            files[plain].append(await value.read())
        else:
            fields[plain] = value
    if len(files["mask"]) > 1:
        raise refused("there can be one mask", "mask")
    return fields, files["image"], next(iter(files["mask"]), None)


async def _answer(http: Request, here: Context, caller: User, wanted: Wanted, kind: Kind) -> Response:
    job = await handed_in(here, caller, wanted.request, FIELD_NAMES)
    if wanted.stream:
        return StreamingResponse(events(here, job, wanted, kind), media_type="text/event-stream", headers=HEADERS)
    done, pictures = await painted(here, http, job)
    addresses = [str(http.url_for("file", image=image)) for image in done.images]
    return JSONResponse(await asyncio.to_thread(images_response, wanted, pictures, int(done.created), addresses))


async def events(here: Context, job: Job, wanted: Wanted, kind: Kind) -> AsyncGenerator[str]:
    """Partial pictures, then the picture itself or an error; a comment is the sign of life between them."""
    stream, sent, steps = followed(here, job), 0, job.request.steps or 1
    coming = asyncio.ensure_future(anext(stream, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=here.settings.patience.heartbeat)
            if here.closing.is_set():
                yield error_event(draining())
                return
            if not done:
                yield ALIVE
                continue
            event = coming.result()
            if event is None or event.kind in ("succeeded", "failed", "cancelled", "quarantined"):
                yield await _ending(here, job, wanted, kind)
                return
            steps = event.total or steps
            if is_due(event, steps, sent, wanted.partial_images):
                yield await _partial(event, wanted, kind, sent)
                sent += 1
            coming = asyncio.ensure_future(anext(stream, None))
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({coming})
        await stream.aclose()


def is_due(event: JobEvent, steps: int, sent: int, wanted: int) -> bool:
    """Whether a preview comes late enough to be the next of `wanted`, which are spread over the steps."""
    if event.kind != "preview" or not event.pictures or sent >= wanted:
        return False
    return ((event.index or 0) + 1) * (wanted + 1) >= (sent + 1) * steps


async def _partial(event: JobEvent, wanted: Wanted, kind: Kind, index: int) -> str:
    made = int(time.time())
    return await asyncio.to_thread(partial_event, kind, wanted, event.pictures[0], index, whole_size(wanted), made)


def whole_size(wanted: Wanted) -> tuple[int, int]:
    """Width and height of the picture that is announced, as far as its header tells where it decides them."""
    multiple = 1 if wanted.request.is_partial else wanted.model.defaults.size_multiple
    width, height = final_size(wanted.request, wanted.model.defaults)
    return max(width // multiple, 1) * multiple, max(height // multiple, 1) * multiple


async def _ending(here: Context, job: Job, wanted: Wanted, kind: Kind) -> str:
    """The job may have ended in any way by now."""
    done = await here.jobs.get(job.id, job.owner)
    if done.state != "succeeded":
        return error_event(failed(done))
    (picture,) = await pictures_of(here, done)
    return await asyncio.to_thread(completed_event, kind, wanted, picture, int(time.time()))
