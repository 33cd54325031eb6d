"""Jobs: hand one in, look at it, stop it."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from marmo.request import MAX_SEED, MAX_SIDE, ImageRequest
from marmo.serve.context import Caller, Here, hand_in, sees
from marmo.serve.job import JobQuery, State
from marmo.serve.routes.answers import Identifier, answers, refused
from marmo.serve.views import JobPage, JobView

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], responses=answers(401, 403, 404, 422))


@router.post("", status_code=202, responses=answers(409, 413, 415, 429, 503, 507))
async def submit(
    request: ImageRequest,
    here: Here,
    caller: Caller,
    response: Response,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="The same key and request give the same job")
    ] = None,
    priority: Annotated[int, Query(ge=-2, le=1, description="1 for people who wait, -1 for the background")] = 0,
) -> JobView:
    """Put a request into the queue.  It is in the journal when this answers, and nothing but its own end loses it."""
    job = await hand_in(here, caller, request, idempotency_key, priority)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return JobView.of(job)


@router.get("")
async def find(
    here: Here,
    caller: Caller,
    state: Annotated[list[State] | None, Query(description="Only these states")] = None,
    text: Annotated[str | None, Query(max_length=200, description="A part of the prompt")] = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    seed: Annotated[int | None, Query(ge=0, le=MAX_SEED)] = None,
    width: Annotated[int | None, Query(ge=1, le=MAX_SIDE)] = None,
    height: Annotated[int | None, Query(ge=1, le=MAX_SIDE)] = None,
    after: Annotated[str | None, Query(max_length=200, description="`next` of an earlier page")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage:
    """Your jobs, the newest first; an admin sees everybody's."""
    query = JobQuery(
        owner=sees(caller),
        states=frozenset(state) if state else None,
        text=text,
        model=model,
        seed=seed,
        width=width,
        height=height,
    )
    with refused():
        page = await here.jobs.find(query, after, limit)
    return JobPage(items=[JobView.of(job) for job in page.items], next=page.next)


@router.get("/{job}")
async def get(job: Identifier, here: Here, caller: Caller) -> JobView:
    """One job as it is now."""
    return JobView.of(await here.jobs.get(job, sees(caller)))


@router.post("/{job}/cancel")
async def cancel(job: Identifier, here: Here, caller: Caller) -> JobView:
    """Stop it: at once if it waits, at its next step if it runs, not at all if it has ended."""
    return JobView.of(await here.jobs.cancel(job, sees(caller)))
