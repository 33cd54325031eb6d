"""The server: routes and dialects, behind the doors, in front of the queue.

    app = create_app(Context(jobs=jobs, settings=settings, log=log), DIALECTS)

Nothing here opens a file or brings torch.
"""

import time
from collections.abc import MutableMapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from marmo.request import explain_flaws
from marmo.serve.context import Context, Dialect
from marmo.serve.doors import App, AsgiScope, Receive, Send, answer, doors
from marmo.serve.job import Refusal
from marmo.serve.problems import Envelopes, Problem
from marmo.serve.refusals import problem_of
from marmo.serve.routes import events, health, images, jobs, models, session
from marmo.version import VERSION

ROUTERS = (jobs.router, events.router, images.router, models.router, session.router, health.router)


def create_app(context: Context, dialects: Sequence[Dialect] = ()) -> App:
    """The whole application as ASGI, without a lifespan: who runs it opens the queue around it."""
    envelopes = Envelopes({dialect.prefix: dialect.envelope for dialect in dialects})
    forms = frozenset[str]().union(*(dialect.forms for dialect in dialects))
    api = create_api(context, dialects, envelopes)
    return watched(doors(api, context.settings, envelopes, forms), context, envelopes)


def create_api(context: Context, dialects: Sequence[Dialect], envelopes: Envelopes) -> FastAPI:
    """The routes alone; their description is at /openapi.json."""
    api = FastAPI(title="Marmo", version=VERSION, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.state.context = context
    for router in (*ROUTERS, *(dialect.router for dialect in dialects)):
        api.include_router(router)

    async def refuse(request: Request, error: Exception) -> Response:
        problem = as_problem(error)
        body = envelopes.body(request.url.path, problem)
        return Response(body, problem.status, dict(problem.headers), "application/json")

    for kind in (Problem, Refusal, RequestValidationError, HTTPException):
        api.add_exception_handler(kind, refuse)
    return api


def as_problem(error: Exception) -> Problem:
    """What an exception of a route means to its caller."""
    match error:
        case Problem():
            return error
        case Refusal():
            return problem_of(error)
        case RequestValidationError():
            return Problem(422, "bad_request", _explain(error))
        case _:
            assert isinstance(error, HTTPException)
            return _of_framework(error)


def watched(app: App, context: Context, envelopes: Envelopes) -> App:
    """Counts and logs every answer; what nobody expected becomes a 500 that says nothing of it."""

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        started, status = time.perf_counter(), 0

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                seconds = time.perf_counter() - started
                context.metrics.count(_method(scope), _route(scope), status, seconds)
            await send(message)

        try:
            await app(scope, receive, noted)
        except Exception as error:
            context.log.failure(error, route=_route(scope))
            if status:
                raise  # too late for another answer; the connection closes
            problem = Problem(500, "internal", "something went wrong in the server; its log says where")
            await answer(noted, problem, envelopes.body(str(scope["path"]), problem), closes=True)
        finally:
            seconds = round(time.perf_counter() - started, 4)
            user = scope.get("state", {}).get("user")
            name = user.name if user else None
            context.log.write(
                "request", method=_method(scope), route=_route(scope), status=status, seconds=seconds, user=name
            )

    return layer


def _route(scope: AsgiScope) -> str:
    """The pattern, such as /api/v1/jobs/{job}; addresses could hold anything."""
    return str(getattr(scope.get("route"), "path", "none"))


def _method(scope: AsgiScope) -> str:
    """One that HTTP knows, for the same reason."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


def _explain(error: RequestValidationError) -> str:
    """For a body the same words as everywhere; parameters are named as they stand in the address or header."""
    said: list[str] = []
    for flaw in cast("Sequence[ErrorDetails]", error.errors()):
        place, *rest = flaw["loc"]
        if flaw["type"] == "json_invalid":
            said.append("the body is no JSON")
        elif place == "body":
            said.append(explain_flaws([{**flaw, "loc": tuple(rest)}]))
        else:
            said.append(f"{'.'.join(str(part) for part in rest)}: {flaw['msg']}")
    return "; ".join(dict.fromkeys(said))


def _of_framework(error: HTTPException) -> Problem:
    codes = {404: ("no_route", "there is no such address; /openapi.json lists them"), 405: ("no_method", "")}
    code, said = codes.get(error.status_code, ("bad_request", ""))
    headers = dict(error.headers or {})
    return Problem(error.status_code, code, said or str(error.detail), headers)
