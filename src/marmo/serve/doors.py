"""What every request passes before the framework sees it: plain ASGI layers, each with one question.

    headers_out    nosniff, CSP and the like on every answer, and every `Problem` in its caller's form
    host           does the Host header name this server?  (DNS rebinding)
    origin         does the page that sends this belong to this server?  (cross-site requests)
    entry          whose token is it, and does its scope allow this method?
    body           is the body of a kind that we read, small enough, and coming?

The order is that of the cost: a stranger's body is never read.  Loopback alone is no protection, because every page
in this machine's browser can send to it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from marmo.serve.problems import Envelopes, Problem, busy
from marmo.serve.settings import Limits, Patience, Settings
from marmo.serve.tokens import COOKIE, LOCAL, Scope, Tokens, User

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/api/v1/session"})
"""What needs no token: whether the server lives, and the way to hand one in."""

SMALL_BODY = 1_000_000
"""Bytes below which a body does not count as an upload."""

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
NO_STORE = (b"cache-control", b"no-store")


def doors(app: App, settings: Settings, envelopes: Envelopes, multipart: Iterable[str] = ()) -> App:
    """The application behind all doors.

    Args:
        multipart: the paths that take forms with files; all others take JSON.
    """
    app = body_door(app, settings.limits, settings.patience, frozenset(multipart))
    app = entry_door(app, settings.tokens)
    app = origin_door(app, settings.origins)
    app = host_door(app, settings.hosts)
    return headers_out(app, envelopes)


def headers_out(app: App, envelopes: Envelopes) -> App:
    """Adds the headers that protect, and answers problems; what is no HTTP ends here."""

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _protected(message.get("headers", ()))
            await send(message)

        try:
            await app(scope, receive, guarded)
        except Problem as problem:
            if started:  # too late for another answer; the server closes the connection
                raise
            body = envelopes.body(str(scope["path"]), problem)
            await answer(guarded, problem, body, closes=_leaves_much(scope) or problem.status == 408)

    return layer


def host_door(app: App, hosts: frozenset[str]) -> App:
    """Lets in who calls the server by its own address, by a loopback name, or by a name that was allowed."""
    names = {"localhost", "127.0.0.1", "[::1]", *(name.lower() for name in hosts)}

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = header_values(scope, b"host")
            host = _without_port(given[0].lower()) if len(given) == 1 else ""
            if host not in names and host != _own_address(scope):
                raise Problem(
                    421, "host_refused", "this server does not answer to that name; allow it with --allow-host NAME"
                )
            if not str(scope["path"]).startswith("/"):
                raise Problem(400, "bad_target", "the request's target must be a path")
        await app(scope, receive, send)

    return layer


def origin_door(app: App, origins: frozenset[str]) -> App:
    """Refuses what a page of another origin sends, `null` included; programs send no Origin and pass."""

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            host = header_values(scope, b"host")[0].lower()
            allowed = {f"http://{host}", f"https://{host}", *(origin.lower() for origin in origins)}
            if any(given.lower() not in allowed for given in header_values(scope, b"origin")):
                raise Problem(
                    403, "origin_refused", "a page of another site sent this; allow it with --allow-origin ORIGIN"
                )
        await app(scope, receive, send)

    return layer


def entry_door(app: App, tokens: Tokens) -> App:
    """Puts the caller's `User` into the scope's state; looking needs `read`, everything else `generate`."""

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            user = who(scope, tokens)
            needed: Scope = "read" if scope["method"] in SAFE_METHODS else "generate"
            if not user.may(needed):
                raise Problem(403, "scope_missing", f"this needs a token of scope {needed}; yours has {user.scope}")
            scope.setdefault("state", {})["user"] = user
        await app(scope, receive, send)

    return layer


def who(scope: AsgiScope, tokens: Tokens) -> User:
    """The caller, by token or cookie.  A wrong token is refused even where a right cookie lies beside it."""
    if not tokens:
        return LOCAL
    given = header_values(scope, b"authorization")
    if given:
        user = tokens.with_header(given[0]) if len(given) == 1 else None
    else:
        user = tokens.with_session(_cookie(scope), time.time())
    if user is None:
        raise Problem(
            401,
            "token_missing",
            "this server needs a token: Authorization: Bearer TOKEN, or TOKEN as the password of Basic",
            {"WWW-Authenticate": 'Bearer realm="marmo"'},
        )
    return user


@dataclass
class Uploads:
    """How much is on its way in."""

    limit: int
    held: int = 0

    def take(self, size: int) -> None:
        """Counts more bytes in, or refuses them."""
        if self.held + size > self.limit:
            raise busy(429, "uploads_full", "too many uploads at once; try again in a moment", 1)
        self.held += size

    def give_back(self, size: int) -> None:
        """Counts them out again."""
        self.held -= size


def body_door(app: App, limits: Limits, patience: Patience, multipart: frozenset[str]) -> App:
    """Reads the whole body, within its limits, and hands it on in one piece."""
    uploads = Uploads(limits.uploads_bytes)

    async def layer(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        length = _announced(scope, limits.body_bytes)
        if length == 0:
            return await app(scope, receive, send)
        _check_type(scope, scope["path"] in multipart)
        reader = _Reader(receive, uploads, limits.body_bytes, patience)
        try:
            data = await reader.read()
            await app(scope, _again(data, receive), send)
        finally:
            uploads.give_back(reader.counted)

    return layer


class _Reader:
    """One body on its way in."""

    def __init__(self, receive: Receive, uploads: Uploads, limit: int, patience: Patience) -> None:
        self.receive, self.uploads, self.limit, self.patience = receive, uploads, limit, patience
        self.counted = 0
        """What `uploads` counts of this body."""

    async def read(self) -> bytes:
        """All of it; `Problem` for one that is too large, too slow, or breaks off."""
        data, loop = bytearray(), asyncio.get_running_loop()
        started, more = loop.time(), True
        while more:
            allowed = self.patience.body + len(data) / self.patience.body_rate
            try:
                async with asyncio.timeout_at(started + allowed):
                    message = await self.receive()
            except TimeoutError:
                raise Problem(408, "body_slow", "the body came too slowly") from None
            if message["type"] == "http.disconnect":
                raise Problem(400, "body_cut", "the body broke off")
            data += message.get("body", b"")
            if len(data) > self.limit:
                raise _too_large(self.limit)
            self._count(len(data))
            more = message.get("more_body", False)
        return bytes(data)

    def _count(self, size: int) -> None:
        if size > SMALL_BODY:
            self.uploads.take(size - self.counted)
            self.counted = size


async def answer(send: Send, problem: Problem, body: bytes, closes: bool) -> None:
    """A problem as a whole answer; `closes` ends the connection rather than read what is still on its way."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def header_values(scope: AsgiScope, name: bytes) -> list[str]:
    """Every value of a header; names in the scope are lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _protected(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With our headers where the application has not said otherwise."""
    kept = list(headers)
    said = {name.lower() for name, _ in kept}
    return kept + [pair for pair in (*HEADERS, NO_STORE) if pair[0] not in said]


def _without_port(host: str) -> str:
    """`[::1]:7860` is `[::1]`; what is no host becomes one that nobody has."""
    name, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdecimal():
        return name
    return host


def _own_address(scope: AsgiScope) -> str | None:
    """The address that the client reached, as it would stand in a Host header."""
    server = scope.get("server")
    if not server:
        return None
    address = str(server[0])
    return f"[{address}]" if ":" in address else address


def _cookie(scope: AsgiScope) -> str:
    try:
        jar = SimpleCookie("; ".join(header_values(scope, b"cookie")))
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""


def _leaves_much(scope: AsgiScope) -> bool:
    """Whether more may be on its way than a server reads only to throw it away."""
    given = header_values(scope, b"content-length")
    return bool(header_values(scope, b"transfer-encoding")) or any(
        not length.isdecimal() or int(length[:20]) > SMALL_BODY for length in given
    )


def _announced(scope: AsgiScope, limit: int) -> int | None:
    """The body's length by its header; `None` where it comes in chunks, 0 where there is none."""
    if header_values(scope, b"transfer-encoding"):
        return None
    given = header_values(scope, b"content-length")
    length = int(given[0][:20]) if given and given[0].isdecimal() else 0
    if length > limit:
        raise _too_large(limit)
    return length


def _check_type(scope: AsgiScope, is_form: bool) -> None:
    kind = "".join(header_values(scope, b"content-type")).partition(";")[0].strip().lower()
    wanted = "multipart/form-data" if is_form else "application/json"
    if kind != wanted:
        raise Problem(415, "content_type", f"the body here must be {wanted}")


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"the body may have at most {limit:,} bytes", facts={"limit": limit})


def _again(data: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body first and then whatever follows, such as the caller's end."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    return replay
