"""A1111's HTTP interface under /sdapi/v1."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from marmo.files.pictures import find_texts
from marmo.serve.context import Caller, Context, Dialect, Here
from marmo.serve.contract import Model
from marmo.serve.dialects.a1111_answer import (
    envelope,
    idle,
    pictures_body,
    png_info_body,
    progress_body,
)
from marmo.serve.dialects.a1111_desk import Desk
from marmo.serve.dialects.a1111_lists import samplers, schedulers, sd_models, upscalers
from marmo.serve.dialects.a1111_options import Options
from marmo.serve.dialects.a1111_request import FIELD_NAMES, Wanted, read_img2img, read_txt2img
from marmo.serve.dialects.bodies import read_picture, refused
from marmo.serve.dialects.exchange import handed_in, painted, read_json
from marmo.serve.job import Job
from marmo.serve.problems import Problem
from marmo.serve.tokens import User

Reader = Callable[[object, Options, Sequence[Model]], Wanted]

EMPTY_LISTS = (
    "sd-vae", "latent-upscale-modes", "loras", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles",
    "script-info", "extensions",
)  # fmt: skip
DONE_ANYWAY = ("refresh-checkpoints", "refresh-vae", "refresh-embeddings", "refresh-loras")
"""What the server does by itself; A1111 answers null."""
HELD_ANYWAY = ("unload-checkpoint", "reload-checkpoint")
"""Models come and go as memory allows; A1111 answers {}."""
MISSING: Mapping[str, str] = {
    "interrogate": "this server has no model that describes pictures",
    "extra-single-image": "this server has no upscaler for finished pictures",
    "extra-batch-images": "this server has no upscaler for finished pictures",
}
"""Routes that exist so that their callers learn why they do nothing."""


def dialect() -> Dialect:
    """The dialect with a state of its own."""
    return Dialect("a1111", "/sdapi/", Sdapi().router(), envelope)


class Sdapi:
    """The routes that have a state."""

    def __init__(self) -> None:
        self.desk = Desk()

    def router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["AUTOMATIC1111"])
        router.include_router(stateless())
        posts = (self.txt2img, self.img2img, self.interrupt, self.skip)
        for endpoint in posts:
            router.add_api_route(f"/sdapi/v1/{endpoint.__name__}", endpoint, methods=["POST"])
        router.add_api_route("/sdapi/v1/options", self.get_options, methods=["GET"])
        router.add_api_route("/sdapi/v1/options", self.post_options, methods=["POST"])
        router.add_api_route("/sdapi/v1/progress", self.progress, methods=["GET"])
        return router

    async def txt2img(self, http: Request, here: Here, caller: Caller) -> Response:
        """Pictures from a prompt."""
        return await self._paint(http, here, caller, read_txt2img)

    async def img2img(self, http: Request, here: Here, caller: Caller) -> Response:
        """Pictures from a picture and a prompt."""
        return await self._paint(http, here, caller, read_img2img)

    async def _paint(self, http: Request, here: Context, caller: User, read: Reader) -> Response:
        options, models = self.desk.options(caller.name), here.jobs.models
        wanted = await read_json(http, lambda body: read(body, options, models))
        if wanted.options != options:
            self.desk.set_options(caller.name, wanted.options)
        job = await handed_in(here, caller, wanted.request, FIELD_NAMES)
        done, pictures = await self._waited(http, here, job)
        return JSONResponse(await asyncio.to_thread(_answer, wanted, done, pictures))

    async def _waited(self, http: Request, here: Context, job: Job) -> tuple[Job, list[bytes]]:
        """The pictures; none, and no error, where the caller interrupted, as in A1111."""
        async with self.desk.sitting(here, client_of(http), job) as sitting:
            try:
                return await painted(here, http, job)
            except Problem as problem:
                if problem.code != "cancelled":
                    raise
                sitting.interrupted = True
                return await here.jobs.get(job.id, job.owner), []

    async def interrupt(self, http: Request, here: Here, caller: Caller) -> dict[str, object]:
        """Stops the caller's own job."""
        sitting = self.desk.to_interrupt(caller.name, client_of(http))
        if sitting is not None:
            await here.jobs.cancel(sitting.job.id, caller.name)
        return {}

    async def skip(self, http: Request, here: Here, caller: Caller) -> None:
        """The pictures of a job are painted together, so this is `interrupt`."""
        await self.interrupt(http, here, caller)

    async def get_options(self, here: Here, caller: Caller) -> dict[str, object]:
        """The caller's options."""
        return self.desk.options(caller.name).shown(here.jobs.models)

    async def post_options(self, http: Request, here: Here, caller: Caller) -> None:
        """Changes the caller's options, and nobody else's."""
        options, models = self.desk.options(caller.name), here.jobs.models
        changed = await read_json(http, lambda body: options.updated(_object(body), models))
        self.desk.set_options(caller.name, changed)

    async def progress(
        self, http: Request, here: Here, caller: Caller, skip_current_image: Annotated[bool, Query()] = False
    ) -> dict[str, object]:
        """How far the caller's own job is."""
        sitting = self.desk.current(caller.name, client_of(http))
        if sitting is None:
            return idle()
        job = await here.jobs.get(sitting.job.id, caller.name)
        fraction = min(max(job.step / max(job.steps, 1), 0.01), 1.0)
        preview = None if skip_current_image else sitting.preview
        return progress_body(fraction, job.seconds_left or 0.0, job.created, preview, job.step, job.steps)


def stateless() -> APIRouter:
    """What is the same for everyone, or does nothing."""
    router = APIRouter()
    for name in EMPTY_LISTS:
        router.add_api_route(f"/sdapi/v1/{name}", _empty_list, methods=["GET"], name=name)
    for name in DONE_ANYWAY:
        router.add_api_route(f"/sdapi/v1/{name}", _nothing, methods=["POST"], name=name)
    for name in HELD_ANYWAY:
        router.add_api_route(f"/sdapi/v1/{name}", _empty_object, methods=["POST"], name=name)
    for name, why in MISSING.items():
        router.add_api_route(f"/sdapi/v1/{name}", _missing(why), methods=["POST"], name=name)
    for endpoint in (_sd_models, _samplers, _schedulers, _upscalers, _embeddings, _scripts, _cmd_flags, _memory):
        name = endpoint.__name__.removeprefix("_").replace("_", "-")
        router.add_api_route(f"/sdapi/v1/{name}", endpoint, methods=["GET"], name=name)
    router.add_api_route("/sdapi/v1/png-info", _png_info, methods=["POST"], name="png-info")
    router.add_api_route("/internal/ping", _empty_object, methods=["GET"], name="ping")
    return router


def client_of(http: Request) -> str:
    """Which program on which machine this is, as far as one can tell."""
    host = http.client.host if http.client else ""
    return f"{host} {http.headers.get('user-agent', '')[:200]}"


def _answer(wanted: Wanted, done: Job, pictures: Sequence[bytes]) -> dict[str, object]:
    infotexts = [find_texts(data).get("parameters", "") for data in pictures]
    return pictures_body(wanted, done.request, pictures, infotexts, done.created)


def _object(body: object) -> Mapping[str, object]:
    if not isinstance(body, Mapping):
        raise refused("the body must be a JSON object of options")
    return cast(Mapping[str, object], body)


async def _sd_models(here: Here) -> list[dict[str, object]]:
    return sd_models(here.jobs.models)


async def _samplers() -> list[dict[str, object]]:
    return samplers()


async def _schedulers() -> list[dict[str, object]]:
    return schedulers()


async def _upscalers() -> list[dict[str, object]]:
    return upscalers()


async def _embeddings() -> dict[str, object]:
    return {"loaded": {}, "skipped": {}}


async def _scripts() -> dict[str, object]:
    return {"txt2img": [], "img2img": []}


async def _cmd_flags() -> dict[str, object]:
    """None that could tell of paths or tokens."""
    return {"api": True, "nowebui": True}


async def _memory() -> dict[str, object]:
    """Bytes, of this server; the models are in another process."""
    return {"ram": memory(), "cuda": {"error": "unavailable"}}


def memory() -> dict[str, object]:
    """This machine's memory in bytes and this process's part of it, as far as the system tells."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        used = int(Path("/proc/self/statm").read_text().split()[1]) * page
        total = os.sysconf("SC_PHYS_PAGES") * page
    except (OSError, ValueError, AttributeError):
        return {"error": "unavailable"}
    return {"free": total - used, "used": used, "total": total}


async def _png_info(http: Request) -> dict[str, object]:
    """The text inside a picture file, which is not decoded for it."""
    return await read_json(http, _read_png_info)


def _read_png_info(body: object) -> dict[str, object]:
    image = _object(body).get("image")
    if not isinstance(image, str):
        raise refused("image must be a picture in base64", "image")
    data = read_picture(image, "image")
    try:
        return png_info_body(find_texts(data))
    except ValueError as error:
        raise refused(f"image: {error}", "image") from None


async def _empty_list() -> list[object]:
    return []


async def _empty_object() -> dict[str, object]:
    return {}


async def _nothing() -> None:
    return None


def _missing(why: str) -> Callable[[], object]:
    async def endpoint() -> None:
        raise Problem(501, "not_implemented", why)

    return endpoint
