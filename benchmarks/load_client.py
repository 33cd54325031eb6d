"""Just enough HTTP to put a server under load from one process: kept connections, JSON, and streams of events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    value: Any
    seconds: float
    """From the first byte sent to the last received."""


class Connection:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, value: object = None) -> Answer:
        """A request and its whole answer."""
        started = time.perf_counter()
        self._send(method, path, value)
        status, headers = await self._head()
        data = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, json.loads(data) if data[:1] == b"{" else data, time.perf_counter() - started)

    async def events(self, path: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Kind and content of each event; ends with the stream, after which the connection is of no more use."""
        self._send("GET", path, None)
        status, _ = await self._head()
        assert status == 200, status
        kind = ""
        while line := await self.reader.readline():
            name, _, text = line.decode().rstrip("\r\n").partition(": ")
            if name == "0":  # the last chunk
                return
            if name == "event":
                kind = text
            elif name == "data":
                yield kind, json.loads(text)

    def close(self) -> None:
        self.writer.close()

    def _send(self, method: str, path: str, value: object) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n" if data else ""
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\n".encode() + data)

    async def _head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines)
