"""A job's events as a stream: stages, steps, previews, place in the queue, time left, and how it ended.

Server-sent events (WHATWG HTML, 9.2): `id` is the event's number, `event` its kind, `data` its JSON.  A reader that
comes back with `Last-Event-ID` goes on behind it.  On a silent stream a comment is the sign of life.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from marmo.serve.context import Caller, Context, Here, sees
from marmo.serve.job import JobEvent
from marmo.serve.routes.answers import Identifier, answers

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], responses=answers(401, 403, 404, 422))

RECONNECT = b"retry: 2000\n\n"
"""Milliseconds after which a browser comes back."""
ALIVE = b": alive\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second keeps nginx from collecting events."""


@router.get(
    "/{job}/events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The job has ended, and nothing happened after Last-Event-ID"},
    },
)
async def events(
    job: Identifier,
    here: Here,
    caller: Caller,
    last_event_id: Annotated[int, Header(ge=0, le=2**53, description="Go on behind this event")] = 0,
    previews: Annotated[bool, Query(description="Whether to send previews")] = True,
) -> Response:
    """What happened to the job, and then what happens, until it ends."""
    found = await here.jobs.get(job, sees(caller))
    stream = here.jobs.follow(job, last_event_id, sees(caller))
    first = await anext(stream, None) if found.ended else None
    if found.ended and first is None:
        return Response(status_code=204, headers=HEADERS)  # a browser stops coming back
    return StreamingResponse(lines(here, stream, first, previews), media_type="text/event-stream", headers=HEADERS)


async def lines(
    here: Context, stream: AsyncIterator[JobEvent], first: JobEvent | None, previews: bool
) -> AsyncGenerator[bytes]:
    """The bytes of the stream.  The next event is asked for when the last is sent, so a slow reader costs nothing."""
    yield RECONNECT
    if first is not None:
        yield encode(first)
    here.metrics.listeners += 1
    coming = asyncio.ensure_future(anext(stream, None))
    try:
        while not here.closing.is_set():
            done, _ = await asyncio.wait({coming}, timeout=here.settings.patience.heartbeat)
            if not done:
                yield ALIVE
                continue
            event = coming.result()
            if event is None:
                return
            if previews or event.kind != "preview":
                yield encode(event)
            coming = asyncio.ensure_future(anext(stream, None))
    finally:
        here.metrics.listeners -= 1
        coming.cancel()


def encode(event: JobEvent) -> bytes:
    """JSON has no line breaks of its own, so one `data` line holds it."""
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {event.to_json()}\n\n".encode()
