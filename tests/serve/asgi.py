"""Asks an ASGI application without a socket, so that a test can send what no client library would."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from marmo.serve.doors import App

HOST = "127.0.0.1:7860"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of the error, if it is one in our form."""
        return self.json()["error"]["code"] if self.status >= 400 else None


async def ask(
    app: App,
    method: str,
    path: str,
    *headers: tuple[str, str],
    body: bytes | Iterable[bytes] | None = None,
    value: object = None,
    host: str | None = HOST,
    server: tuple[str, int] = ("127.0.0.1", 7860),
) -> Answer:
    """One request.  `value` is sent as JSON; an iterable body comes in chunks; `host=None` leaves the header out."""
    sent = [(name.lower().encode(), text.encode("latin-1")) for name, text in headers]
    if host is not None:
        sent.append((b"host", host.encode("latin-1")))
    if value is not None:
        body = json.dumps(value).encode()
        sent.append((b"content-type", b"application/json"))
    if isinstance(body, bytes):
        sent.append((b"content-length", str(len(body)).encode()))
    elif body is not None:
        sent.append((b"transfer-encoding", b"chunked"))
    chunks = iter([body] if isinstance(body, bytes) else [b""] if body is None else [*body, b""])
    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": sent,
        "client": ("127.0.0.1", 1),
        "server": server,
    }
    pending = next(chunks)

    async def receive() -> dict[str, Any]:
        nonlocal pending
        if pending is None:
            await asyncio.sleep(3600)
        now, pending = pending, next(chunks, None)
        return {"type": "http.request", "body": now, "more_body": pending is not None}

    start: dict[str, Any] = {}
    parts: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(
        start["status"], {name.decode(): text.decode("latin-1") for name, text in start["headers"]}, b"".join(parts)
    )
