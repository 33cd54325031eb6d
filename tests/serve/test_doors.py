"""Every door, alone and in order; `test_matrix.py` tries them on every real route."""

import asyncio
import base64
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.serve.doors import HEADERS, AsgiScope, Receive, Send, doors
from marmo.serve.problems import Envelopes
from marmo.serve.settings import Limits, Patience, Settings
from marmo.serve.tokens import COOKIE, Tokens, User
from tests.serve.asgi import HOST, Answer, ask

A, B, R = "ana-secret-0123456789", "ben-secret-0123456789", "root-secret-0123456789"
TOKENS = Tokens([(User("ana", "generate"), A), (User("ben", "read"), B), (User("root", "admin"), R)])
LIMITS = Limits(body_bytes=2_500_000, uploads_bytes=4_000_000)
OPEN, CLOSED = Settings(limits=LIMITS), Settings(tokens=TOKENS, limits=LIMITS)
FORM = "/v1/images/edits"


async def inner(scope: AsgiScope, receive: Receive, send: Send) -> None:
    """Says who came in with how much."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    user = scope.get("state", {}).get("user")
    said = json.dumps({"user": user and user.name, "size": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": said})


def knock(settings: Settings, method: str, path: str, *headers: tuple[str, str], **more: Any) -> Answer:
    envelopes = Envelopes({"/v1/": lambda problem: {"error": {"code": problem.code, "type": "theirs"}}})
    return asyncio.run(ask(doors(inner, settings, envelopes, [FORM]), method, path, *headers, **more))


@pytest.mark.parametrize(
    "host", [HOST, "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:7860", "[::1]", "marmo.example:443", "Marmo.Example"]
)
def test_names_of_this_server(host: str) -> None:
    assert knock(Settings(hosts=frozenset({"marmo.example"})), "GET", "/", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1:x", "",
        "evil.example#127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1, evil.example", "2130706433", "0x7f.1",
        "0.0.0.0", "127.1", "[::ffff:127.0.0.1]", "localhost.", "10.0.0.5", "::1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_names_are_refused_first(host: str, method: str) -> None:
    answer = knock(CLOSED, method, "/api/v1/jobs", ("Authorization", f"Bearer {A}"), host=host)
    assert (answer.status, answer.code) == (421, "host_refused")


def test_a_request_names_exactly_one_host() -> None:
    assert knock(OPEN, "GET", "/", host=None).status == 421
    assert knock(OPEN, "GET", "/", ("Host", "evil.example")).status == 421


def test_the_address_that_was_reached_is_a_name() -> None:
    reached = ("10.0.0.5", 7860)
    assert (
        knock(CLOSED, "GET", "/", ("Authorization", f"Bearer {B}"), host="10.0.0.5:7860", server=reached).status == 200
    )
    assert knock(CLOSED, "GET", "/", host="10.0.0.6:7860", server=reached).status == 421


def test_a_target_must_be_a_path() -> None:
    assert knock(OPEN, "GET", "http://evil.example/").code == "bad_target"


ORIGINS = [
    "https://evil.example",
    "null",
    "http://127.0.0.1:9999",
    "http://localhost:7860",
    "",
    "http://127.0.0.1:7860.evil",
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
def test_other_pages_may_not_send(origin: str, method: str) -> None:
    assert knock(OPEN, method, "/x", ("Origin", origin)).code == "origin_refused"


@pytest.mark.parametrize("origin", [None, f"http://{HOST}", f"https://{HOST}", "https://Marmo.example"])
def test_our_own_page_and_programs_may(origin: str | None) -> None:
    settings = Settings(origins=frozenset({"https://marmo.example"}))
    assert knock(settings, "POST", "/x", *([("Origin", origin)] if origin else [])).status == 200


def test_one_wrong_origin_among_two_is_refused() -> None:
    both = ("Origin", f"http://{HOST}"), ("Origin", "https://evil.example")
    assert knock(OPEN, "POST", "/x", *both).code == "origin_refused"


def test_looking_does_not_ask_for_an_origin() -> None:
    assert knock(OPEN, "GET", "/x", ("Origin", "https://evil.example")).status == 200


def basic(token: str) -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"me:{token}".encode()).decode()


@pytest.mark.parametrize("header", [("Authorization", f"Bearer {A}"), basic(A)])
def test_a_token_in_a_header_comes_in(header: tuple[str, str]) -> None:
    assert knock(CLOSED, "POST", "/x", header).json()["user"] == "ana"


def test_a_cookie_comes_in_and_a_wrong_token_beside_it_does_not() -> None:
    cookie = "Cookie", f"a=b; {COOKIE}={TOKENS.session(User('ana', 'generate'), 4e9)}; c=d"
    assert knock(CLOSED, "POST", "/x", cookie).json()["user"] == "ana"
    assert knock(CLOSED, "POST", "/x", cookie, ("Authorization", "Bearer wrong")).status == 401


@pytest.mark.parametrize("place", ["token", "access_token", "api_key", "key", "auth", "Authorization", "marmo_session"])
def test_a_token_in_the_address_is_worth_nothing(place: str) -> None:
    assert knock(CLOSED, "GET", f"/x?{place}={A}").status == 401
    assert knock(CLOSED, "GET", f"/{A}").status == 401


@pytest.mark.parametrize(
    "headers",
    [
        [], [("Authorization", "Bearer wrong")], [("Authorization", "")], [("Cookie", f"{COOKIE}={A}")],
        [("Cookie", "\xff=;;;==")], [("X-Api-Key", A)], [("Authorization", f"Bearer {A}")] * 2,
    ],
)  # fmt: skip
def test_without_a_token_nobody_comes_in(headers: list[tuple[str, str]]) -> None:
    answer = knock(CLOSED, "GET", "/x", *headers)
    assert (answer.status, answer.code, answer.headers["www-authenticate"]) == (
        401,
        "token_missing",
        'Bearer realm="marmo"',
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/v1/session"])
def test_what_needs_no_token(path: str) -> None:
    assert knock(CLOSED, "GET", path).json()["user"] is None
    assert knock(CLOSED, "GET", path + "/").status == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(("token", "may_send"), [(B, False), (A, True), (R, True)])
def test_scopes_by_method(method: str, token: str, may_send: bool) -> None:
    status = knock(CLOSED, method, "/x", ("Authorization", f"Bearer {token}")).status
    assert status == (200 if may_send or method in ("GET", "HEAD") else 403)


JSON, MULTIPART = ("Content-Type", "application/json"), ("Content-Type", "multipart/form-data; boundary=x")


@pytest.mark.parametrize(
    ("path", "header", "passes"),
    [
        ("/x", JSON, True), ("/x", ("Content-Type", "Application/JSON; charset=utf-8"), True), ("/x", MULTIPART, False),
        ("/x", ("Content-Type", "text/plain"), False),
        ("/x", ("Content-Type", "application/x-www-form-urlencoded"), False),
        ("/x", ("Content-Type", ""), False), ("/x", ("X", "y"), False), (FORM, MULTIPART, True), (FORM, JSON, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_by_kind(path: str, header: tuple[str, str], passes: bool, method: str, chunked: bool) -> None:
    answer = knock(OPEN, method, path, header, body=[b"{", b"}"] if chunked else b"{}")
    assert answer.status == (200 if passes else 415)
    if passes:
        assert answer.json()["size"] == 2


def test_no_body_needs_no_kind() -> None:
    assert knock(OPEN, "POST", "/x").status == 200
    assert knock(OPEN, "POST", "/x", body=b"").status == 200


def test_the_body_may_be_as_long_as_allowed_and_not_a_byte_longer() -> None:
    piece = bytes(500_000)
    assert knock(OPEN, "POST", "/x", JSON, body=[piece] * 5).json()["size"] == LIMITS.body_bytes
    assert knock(OPEN, "POST", "/x", JSON, body=bytes(LIMITS.body_bytes)).status == 200
    assert knock(OPEN, "POST", "/x", JSON, body=bytes(LIMITS.body_bytes + 1)).status == 413
    assert knock(OPEN, "POST", "/x", JSON, body=[*[piece] * 5, b"x"]).status == 413


def test_an_endless_body_is_cut_where_the_limit_is() -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 100_000
            yield bytes(100_000)

    app = doors(inner, OPEN, Envelopes())
    scope_body = endless()
    answer = asyncio.run(asyncio.wait_for(_stream(app, scope_body), 10))
    assert answer == 413 and taken <= LIMITS.body_bytes + 200_000


async def _stream(app: Any, body: Any) -> int:
    status: list[int] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": next(body), "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            status.append(message["status"])

    headers = [(b"host", HOST.encode()), (b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]
    await app({"type": "http", "method": "POST", "path": "/x", "headers": headers}, receive, send)
    return status[0]


@pytest.mark.parametrize("length", ["-1", "1e9", "0x10", "9" * 5000, "²"])
def test_a_length_that_is_no_number_opens_nothing(length: str) -> None:
    answer = knock(OPEN, "POST", "/x", ("Content-Length", length))
    assert answer.status in (200, 413) and (answer.status == 413) == (length == "9" * 5000)


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def silent() -> MutableMapping[str, Any]:
        await asyncio.sleep(3600)
        raise AssertionError

    async def drip() -> MutableMapping[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    for receive in (silent, drip):
        settings = Settings(patience=Patience(body=0.1, body_rate=1e6))
        status: list[int] = []

        async def send(message: MutableMapping[str, Any], status: list[int] = status) -> None:
            status.append(message.get("status", 0))

        headers = [(b"host", HOST.encode()), (b"content-length", b"99"), (b"content-type", b"application/json")]
        scope: AsgiScope = {"type": "http", "method": "POST", "path": "/x", "headers": headers}
        asyncio.run(asyncio.wait_for(doors(inner, settings, Envelopes())(scope, receive, send), 10))
        assert status[0] == 408


def test_uploads_share_one_budget_and_give_it_back() -> None:
    async def three() -> list[Answer]:
        gate = asyncio.Event()

        async def slow(scope: AsgiScope, receive: Receive, send: Send) -> None:
            await gate.wait()
            await inner(scope, receive, send)

        app, big = doors(slow, OPEN, Envelopes()), bytes(2_400_000)
        first = asyncio.create_task(ask(app, "POST", "/x", JSON, body=big))
        await asyncio.sleep(0.01)
        second = await ask(app, "POST", "/x", JSON, body=big)
        gate.set()
        return [await first, second, await ask(app, "POST", "/x", JSON, body=big)]

    first, second, third = asyncio.run(three())
    assert (first.status, second.code, second.headers["retry-after"], third.status) == (200, "uploads_full", "1", 200)


def test_every_answer_carries_the_headers_that_protect() -> None:
    for answer in (knock(CLOSED, "GET", "/x"), knock(OPEN, "GET", "/x"), knock(OPEN, "GET", "/x", host="evil.example")):
        for name, value in HEADERS:
            assert answer.headers[name.decode()] == value.decode()
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_problems_have_their_dialects_form() -> None:
    assert knock(CLOSED, "GET", "/v1/models").json() == {"error": {"code": "token_missing", "type": "theirs"}}
    assert set(knock(CLOSED, "GET", "/api/v1/jobs").json()["error"]) == {"code", "message"}


def test_websockets_are_closed() -> None:
    sent: list[str] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError

    asyncio.run(doors(inner, OPEN, Envelopes())({"type": "websocket", "path": "/"}, receive, send))
    assert sent == ["websocket.close"]


@given(st.sampled_from(["GET", "POST", "DELETE"]), st.text(st.characters(max_codepoint=255), max_size=40), st.data())
def test_no_header_breaks_a_door(method: str, text: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["Host", "Origin", "Authorization", "Cookie", "Content-Type", "Content-Length"]))
    answer = knock(CLOSED, method, "/x", (name, text))
    assert answer.status in (401, 403, 421)
