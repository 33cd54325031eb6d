"""A1111's HTTP interface under /sdapi/v1: painting, and options, progress and interrupts for each caller."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from marmo.files.pictures import find_texts
from marmo.request import ImageRequest
from marmo.serve.context import Caller, Context, Dialect, Here
from marmo.serve.contract import Model
from marmo.serve.dialects import a1111_lookups
from marmo.serve.dialects.a1111_answer import envelope, idle, pictures_body, progress_body
from marmo.serve.dialects.a1111_body import Img2Img, Txt2Img
from marmo.serve.dialects.a1111_desk import Desk
from marmo.serve.dialects.a1111_extras import (
    EXTRAS_FIELD_NAMES,
    BatchExtras,
    Extra,
    SingleExtras,
    batch_body,
    read_batch,
    read_single,
    single_body,
)
from marmo.serve.dialects.a1111_options import Options, Values
from marmo.serve.dialects.a1111_request import FIELD_NAMES, Wanted, read_img2img, read_txt2img
from marmo.serve.dialects.bodies import refused
from marmo.serve.dialects.described import REFUSALS, takes
from marmo.serve.dialects.exchange import handed_in, painted, read_json
from marmo.serve.dialects.masks import apart, may_be_transparent
from marmo.serve.job import Job
from marmo.serve.problems import Problem
from marmo.serve.tokens import User

ExtrasAnswer = Callable[[Sequence[bytes], Sequence[str]], dict[str, object]]
Reader = Callable[[object, Options, Sequence[Model]], Wanted]


def dialect() -> Dialect:
    """The dialect with a state of its own."""
    return Dialect("a1111", "/sdapi/", Sdapi().router(), envelope)


class Sdapi:
    """The routes that have a state."""

    def __init__(self) -> None:
        self.desk = Desk()

    def router(self) -> APIRouter:
        """All routes of the dialect."""
        own = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=REFUSALS)
        own.post("/txt2img", openapi_extra=takes(Txt2Img))(self.txt2img)
        own.post("/img2img", openapi_extra=takes(Img2Img))(self.img2img)
        own.post("/options", openapi_extra=takes(Values))(self.set_options)
        own.post("/extra-single-image", openapi_extra=takes(SingleExtras))(self.extra_single_image)
        own.post("/extra-batch-images", openapi_extra=takes(BatchExtras))(self.extra_batch_images)
        own.get("/options")(self.options)
        own.get("/progress")(self.progress)
        own.post("/interrupt")(self.interrupt)
        own.post("/skip")(self.skip)
        router = APIRouter()
        for part in (own, a1111_lookups.router, a1111_lookups.ping):
            router.include_router(part)
        return router

    async def txt2img(self, http: Request, here: Here, caller: Caller) -> Response:
        """Pictures from a prompt."""
        upscalers = here.jobs.upscalers

        def read(body: object, options: Options, models: Sequence[Model]) -> Wanted:
            return read_txt2img(body, options, models, upscalers)

        return await self._paint(http, here, caller, read)

    async def img2img(self, http: Request, here: Here, caller: Caller) -> Response:
        """Pictures from a picture and a prompt, of all of it or under a mask."""
        return await self._paint(http, here, caller, read_img2img)

    async def _paint(self, http: Request, here: Context, caller: User, read: Reader) -> Response:
        options, models = self.desk.options(caller.name), here.jobs.models
        wanted = await read_json(http, lambda body: read(body, options, models))
        request = await asyncio.to_thread(_with_plain_mask, wanted.request)
        job = await handed_in(here, caller, request, FIELD_NAMES)
        if wanted.options != options:
            self.desk.set_options(caller.name, wanted.options)
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

    async def extra_single_image(self, http: Request, here: Here, caller: Caller) -> Response:
        """A finished picture made larger."""
        extras = await read_json(http, lambda body: read_single(body, here.jobs.upscalers))
        return await self._enlarge(http, here, caller, extras, single_body)

    async def extra_batch_images(self, http: Request, here: Here, caller: Caller) -> Response:
        """Finished pictures made larger."""
        extras = await read_json(http, lambda body: read_batch(body, here.jobs.upscalers))
        return await self._enlarge(http, here, caller, extras, batch_body)

    async def _enlarge(
        self, http: Request, here: Context, caller: User, extras: Sequence[Extra], answer: ExtrasAnswer
    ) -> Response:
        """One job after the other, so that an interrupt ends what is left; without an upscaler nothing is done."""
        larger: list[bytes] = []
        for extra in extras:
            if extra.request is None:
                return JSONResponse(answer([extra.picture for extra in extras], []))
            job = await handed_in(here, caller, extra.request, EXTRAS_FIELD_NAMES)
            _, pictures = await self._waited(http, here, job)
            larger += pictures
            if not pictures:
                break
        return JSONResponse(await asyncio.to_thread(_answer_extras, larger, answer))

    async def interrupt(self, http: Request, here: Here, caller: Caller) -> dict[str, object]:
        """Stops the caller's own job."""
        sitting = self.desk.to_interrupt(caller.name, client_of(http))
        if sitting is not None:
            await here.jobs.cancel(sitting.job.id, caller.name)
        return {}

    async def skip(self, http: Request, here: Here, caller: Caller) -> None:
        """The pictures of a job are painted together, so this is `interrupt`."""
        await self.interrupt(http, here, caller)

    async def options(self, here: Here, caller: Caller) -> dict[str, object]:
        """The caller's options."""
        return self.desk.options(caller.name).shown(here.jobs.models)

    async def set_options(self, http: Request, here: Here, caller: Caller) -> None:
        """Changes the caller's options, and nobody else's; what is unknown among them is passed over."""
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


def client_of(http: Request) -> str:
    """Which program on which machine this is, as far as one can tell."""
    host = http.client.host if http.client else ""
    return f"{host} {http.headers.get('user-agent', '')[:200]}"


def _with_plain_mask(request: ImageRequest) -> ImageRequest:
    """Of a mask with transparent pixels the opaque ones are painted."""
    if request.mask is None or not may_be_transparent(request.mask):
        return request
    return request.model_copy(update={"mask": apart("opaque", request.mask, "mask")})


def _answer(wanted: Wanted, done: Job, pictures: Sequence[bytes]) -> dict[str, object]:
    infotexts = [find_texts(data).get("parameters", "") for data in pictures]
    return pictures_body(wanted, done.request, pictures, infotexts, done.created)


def _answer_extras(pictures: Sequence[bytes], answer: ExtrasAnswer) -> dict[str, object]:
    return answer(pictures, [find_texts(data).get("parameters", "") for data in pictures])


def _object(body: object) -> Mapping[str, object]:
    if not isinstance(body, Mapping):
        raise refused("the body must be a JSON object of options")
    return cast(Mapping[str, object], body)
