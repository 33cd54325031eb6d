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
from marmo.serve.tokens import User
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
    api = FastAPI(
        title="Marmo",
        version=VERSION,
        docs_url=None,  # its page would fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # it quotes requests
    )
    api.state.context = context
    for router in (*ROUTERS, *(dialect.router for dialect in dialects)):
        api.include_router(router)

    async def refuse(request: Request, error: Exception) -> Response:
        problem = as_problem(error)
        body = envelopes.body(request.url.path, problem)
        return Response(body, problem.status, dict(problem.headers), "application/json")

    for kind in (Problem, Refusal, RequestValidationError, HTTPException, Exception):
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
        case HTTPException():
            return _of_framework(error)
        case _:  # nobody expected it; `watched` writes down where
            return Problem(500, "internal", "something went wrong in the server; its log says where")


def watched(app: App, context: Context, envelopes: Envelopes) -> App:
    """Counts and logs every answer; what nobody expected becomes a 500 that says nothing of it."""

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        started, status, is_whole = time.perf_counter(), 0, False

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = int(message["status"])
                context.metrics.count(_method(scope), _route(scope), status, time.perf_counter() - started)
            elif not message.get("more_body", False):
                is_whole = True
            await send(message)

        try:
            await app(scope, receive, noted)
        except Exception as error:
            context.log.failure(error, route=_route(scope))
            if not status:
                problem = as_problem(error)
                await answer(noted, problem, envelopes.body(str(scope["path"]), problem), closes=True)
            elif not is_whole:
                raise  # the connection closes, so that the caller knows
        finally:
            context.log.write(
                "request",
                method=_method(scope),
                route=_route(scope),
                status=status,
                seconds=round(time.perf_counter() - started, 4),
                user=_name(scope),
            )

    return layer


def _route(scope: AsgiScope) -> str:
    """The pattern, such as /api/v1/jobs/{job}; addresses could hold anything."""
    return str(getattr(scope.get("route"), "path", "none"))


def _name(scope: AsgiScope) -> str | None:
    user = scope.get("state", {}).get("user")
    return user.name if isinstance(user, User) else None


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
