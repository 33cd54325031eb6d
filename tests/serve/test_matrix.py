"""Every route of the whole application, tried from every host and origin, and with every kind of token."""

import asyncio
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from fastapi.routing import APIRoute, APIRouter

from marmo.serve.app import ROUTERS
from marmo.serve.doors import OPEN_PATHS, SAFE_METHODS
from marmo.serve.job import JobQuery
from marmo.serve.settings import Settings
from marmo.serve.tokens import COOKIE, Tokens, User
from tests.serve.asgi import HOST, ask
from tests.serve.serving import DIALECTS, served

READ, GENERATE = "read-secret-0123456789", "generate-secret-0123456789"
TOKENS = Tokens([(User("ben", "read"), READ), (User("ana", "generate"), GENERATE)])

HOSTS = {HOST: True, "localhost:7860": True, "evil.example": False, "127.0.0.1.evil.example:7860": False}
ORIGINS = {
    None: True,
    "own": True,
    "null": False,
    "https://evil.example": False,
    "http://localhost:9999": False,
    "": False,
}


def routes() -> Iterator[tuple[str, str]]:
    """Method and address of every route, described or not, and of what is no route."""
    yield from (("GET", "/openapi.json"), ("POST", "/openapi.json"), ("GET", "/nowhere"), ("DELETE", "/nowhere"))
    for router in (*ROUTERS, *(dialect.router for dialect in DIALECTS)):
        for route in flat(router):
            for method in route.methods:
                yield method, "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))


def flat(router: APIRouter) -> Iterator[APIRoute]:
    """The routes of a router and of those that it includes."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from flat(route.original_router)  # FastAPI's own name for what was included


def test_the_list_of_routes_is_whole() -> None:
    found = set(routes())
    assert {("POST", "/api/v1/jobs"), ("GET", "/api/v1/jobs/x/events"), ("PATCH", "/api/v1/images/x")} < found
    assert {("POST", "/sdapi/v1/txt2img"), ("GET", "/sdapi/v1/samplers"), ("POST", "/v1/images/edits")} < found
    assert len(found) > 50


@pytest.mark.long
def test_hosts_and_origins_on_every_route(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, Settings(tokens=TOKENS), speaking=DIALECTS) as server:
            token = ("Authorization", f"Bearer {READ}")  # what passes shall paint nothing
            for (method, path), host, origin in product(routes(), HOSTS, ORIGINS):
                said = [] if origin is None else [("Origin", f"http://{host}" if origin == "own" else origin)]
                answer = await ask(server.app, method, path, token, *said, host=host)
                case = (method, path, host, origin, answer.status)
                if not HOSTS[host]:
                    assert answer.status == 421, case
                elif method not in SAFE_METHODS and not ORIGINS[origin]:
                    assert answer.status == 403 and b"another site" in answer.body, case
                else:
                    assert answer.status != 421 and b"another site" not in answer.body, case
                assert answer.headers["x-content-type-options"] == "nosniff", case
            assert (await server.jobs.find(JobQuery())).items == ()

    asyncio.run(main())


@pytest.mark.long
def test_tokens_on_every_route(tmp_path: Path) -> None:
    cookie = ("Cookie", f"{COOKIE}={TOKENS.session(User('ben', 'read'), 4e9)}")
    strangers = [(), (("Authorization", "Bearer wrong"),), (("Cookie", f"{COOKIE}=ben.9999999999.00"),)]
    readers = [(("Authorization", f"Bearer {READ}"),), (cookie,)]

    async def main() -> None:
        async with served(tmp_path, Settings(tokens=TOKENS), speaking=DIALECTS) as server:
            for method, path in routes():
                for headers in strangers:
                    answer = await ask(server.app, method, path + f"?token={GENERATE}", *headers)
                    assert (answer.status == 401) == (path not in OPEN_PATHS), (method, path, headers, answer.status)
                for headers in readers:
                    answer = await ask(server.app, method, path, *headers)
                    refused = method not in SAFE_METHODS and path not in OPEN_PATHS
                    assert (answer.status == 403) == refused, (method, path, answer.status)

    asyncio.run(main())
