"""Between a dialect's body and its answer: read JSON, hand the request in, wait, fetch the pictures.

Dialects are synchronous: their client waits for the pictures, and the job ends when it goes away.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from fastapi import Request

from marmo.request import ImageRequest
from marmo.serve.context import Context, finished, hand_in
from marmo.serve.dialects.bodies import refused, renamed
from marmo.serve.job import Job
from marmo.serve.problems import Problem
from marmo.serve.tokens import User

PRIORITY = 1
"""Somebody waits."""

Read = TypeVar("Read")


async def read_json(http: Request, read: Callable[[object], Read]) -> Read:
    """The body as `read` takes it; both may be megabytes of base64, so neither holds up the loop."""
    return await asyncio.to_thread(_read_json, await http.body(), read)


def _read_json(data: bytes, read: Callable[[object], Read]) -> Read:
    try:
        body: object = json.loads(data)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise refused("the body is no JSON", code="invalid_json") from None
    return read(body)


async def handed_in(here: Context, caller: User, request: ImageRequest, field_names: Mapping[str, str]) -> Job:
    """The request's job; a problem with the request speaks of the dialect's own fields."""
    try:
        return await hand_in(here, caller, request, priority=PRIORITY)
    except Problem as problem:
        if problem.status != 422:
            raise
        field = problem.facts.get("field")
        named = None if field is None else renamed(str(field), field_names)
        raise refused(renamed(problem.message, field_names), named, problem.code) from None


async def painted(here: Context, http: Request, job: Job) -> tuple[Job, list[bytes]]:
    """The job when it has succeeded, and its PNG files."""
    done = await finished(here, http, job)
    return done, await pictures_of(here, done)


async def pictures_of(here: Context, job: Job) -> list[bytes]:
    """The PNG files of a job that has succeeded."""
    return [await here.jobs.picture(image, job.owner) for image in job.images]
