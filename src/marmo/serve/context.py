"""What routes and dialects share: the queue, the settings, who calls; how a job is handed in and waited for.

@router.post("/v1/images/generations")
async def generate(http: Request, here: Here, caller: Caller, body: Body) -> Answer:
    job = await hand_in(here, caller, to_request(body), priority=1)
    job = await finished(here, http, job)          # cancels the job if the client goes away
    pictures = [await here.jobs.picture(image, caller.name) for image in job.images]
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request

from marmo.request import ImageRequest
from marmo.serve.contract import Model
from marmo.serve.job import Job, JobEvent, Refusal, UnknownModel
from marmo.serve.jobs import Jobs
from marmo.serve.limits import check_request, check_size
from marmo.serve.logs import Log
from marmo.serve.metrics import Metrics
from marmo.serve.problems import Envelope, Problem
from marmo.serve.refusals import draining, failed
from marmo.serve.settings import Settings
from marmo.serve.tokens import User


@dataclass(frozen=True)
class Context:
    """One server's parts; every route finds it in `Here`."""

    jobs: Jobs
    settings: Settings
    log: Log
    metrics: Metrics = field(default_factory=Metrics)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when connections must end, so that the process can."""
    errands: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    """What goes on although nobody waits for it."""

    def send(self, errand: Coroutine[None, None, object]) -> None:
        """Do this even if the caller's own task is being cancelled."""

        async def run() -> None:
            with suppress(Refusal):
                await errand

        task = asyncio.ensure_future(run())
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)


@dataclass(frozen=True)
class Dialect:
    """Other programs' way of speaking: routes, the form of errors, and which paths take forms with files."""

    name: str
    prefix: str
    """What all of its paths begin with, such as /v1/."""
    router: APIRouter
    envelope: Envelope
    forms: frozenset[str] = frozenset()


async def context_of(request: Request) -> Context:
    """For `Here`."""
    return cast(Context, request.app.state.context)


async def caller_of(request: Request) -> User:
    """For `Caller`; the doors have put it there."""
    return cast(User, request.state.user)


Here = Annotated[Context, Depends(context_of)]
Caller = Annotated[User, Depends(caller_of)]


async def admin_of(caller: Caller) -> User:
    """For `Admin`; `Problem` 403 for everyone else."""
    if not caller.may("admin"):
        raise Problem(403, "scope_missing", f"this needs a token of scope admin; yours has {caller.scope}")
    return caller


Admin = Annotated[User, Depends(admin_of)]


def sees(caller: User) -> str | None:
    """Whose jobs and pictures a caller may touch, as `Jobs` takes it: their own, or everybody's."""
    return None if caller.may("admin") else caller.name


async def hand_in(here: Context, caller: User, request: ImageRequest, key: str | None = None, priority: int = 0) -> Job:
    """A job in the queue.  `Problem` for what is over a limit or cannot be painted; `Refusal` as `Jobs.submit`."""
    limits = here.settings.limits
    check_request(request, limits)
    try:
        check_size(request, here.jobs.model(request.model).defaults, limits)
        for place, id in others_of(request):
            _check_other(place, here.jobs.model(id))  # a catalogue id too, never a path
        if request.upscale.model is not None:
            check_size(request, here.jobs.model(request.upscale.model).defaults, limits)
        return await here.jobs.submit(request, caller.name, key, priority)
    except UnknownModel as error:
        raise Problem(422, "model_unknown", str(error)) from None
    except ValueError as error:
        raise Problem(422, "request_refused", str(error)) from None


def others_of(request: ImageRequest) -> Iterator[tuple[str, str]]:
    """The models that a request names beside its own: where, and which."""
    named = (
        ("refiner.model", request.refiner.model),
        ("hires.model", request.hires.model),
        ("upscale.model", request.upscale.model),
    )
    yield from ((place, id) for place, id in named if id is not None)


def _check_other(place: str, model: Model) -> None:
    """`Problem` for a model that cannot do what it is named for there."""
    serves, kind = {
        "refiner.model": (model.defaults.paints, "that paints"),
        "hires.model": (model.enlarges, "that only enlarges, or a latent x2 upscaler"),
        "upscale.model": (not model.defaults.paints, "that only enlarges"),
    }[place]
    if not serves:
        raise Problem(422, "model_unknown", f"{place} must be a model {kind}", facts={"field": place})


async def finished(here: Context, http: Request, job: Job) -> Job:
    """The job when it has succeeded; its pictures are in `images`.

    Cancels the job when the client goes away or the server closes.  `Problem` if it ended in another way.
    """
    ends = asyncio.ensure_future(here.jobs.wait(job.id))
    others = [asyncio.ensure_future(_gone(http)), asyncio.ensure_future(here.closing.wait())]
    try:
        await asyncio.wait([ends, *others], return_when=asyncio.FIRST_COMPLETED)
        if not ends.done() or not ends.result().ended:
            here.send(here.jobs.cancel(job.id))
            raise draining()
        return succeeded(ends.result())
    except asyncio.CancelledError:
        here.send(here.jobs.cancel(job.id))
        raise
    finally:
        for task in (ends, *others):
            task.cancel()


async def followed(here: Context, job: Job) -> AsyncGenerator[JobEvent]:
    """The events of a job whose client must stay: closing this generator early cancels the job."""
    ended = False
    try:
        async for event in here.jobs.follow(job.id):
            ended = event.ends
            yield event
    finally:
        if not ended:
            here.send(here.jobs.cancel(job.id))


def succeeded(job: Job) -> Job:
    """The job, or a `Problem` that says how it ended instead."""
    if job.state != "succeeded":
        raise failed(job)
    return job


async def _gone(http: Request) -> None:
    """Ends when the client has closed the connection; its body was read before."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
