"""Streams of events: whole, resumed, alive while nothing happens, and bounded for a reader that does not read."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from marmo.serve.doors import AsgiScope
from marmo.serve.routes.events import ALIVE
from marmo.serve.settings import Patience, Settings
from tests.serve.asgi import HOST
from tests.serve.serving import Served, served
from tests.serve.toy_engine import ToyEngine

QUICK = Settings(patience=Patience(heartbeat=0.02))


class Reader:
    """A client of one stream, which reads when it is told to."""

    def __init__(self, server: Served, path: str, *headers: tuple[str, str]) -> None:
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self.gone = asyncio.Event()
        self.status = 0
        path, _, query = path.partition("?")
        sent = [(b"host", HOST.encode()), *((name.lower().encode(), text.encode()) for name, text in headers)]
        self.scope: AsgiScope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "headers": sent,
            "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860),
        }  # fmt: skip
        self.task = asyncio.ensure_future(server.app(self.scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        await self.parts.put(message.get("body", b"") or None)  # waits, as a full socket does

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        while (part := await asyncio.wait_for(self.parts.get(), 10)) is not None:
            lines = dict(line.split(": ", 1) for line in part.decode().strip().splitlines() if line[0] != ":")
            if "data" in lines:
                event = json.loads(lines["data"])
                assert (event["kind"], str(event["seq"])) == (lines["event"], lines["id"])
                yield event

    async def all(self) -> list[dict[str, Any]]:
        return [event async for event in self.events()]


async def submit(server: Served, prompt: str, **fields: Any) -> str:
    return (await server.post("/api/v1/jobs", {"prompt": prompt, **fields})).json()["id"]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


def test_a_stream_tells_everything_in_order_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine(step_seconds=0.01)) as server:
            job = await submit(server, "a fox", steps=5)
            events = await Reader(server, f"/api/v1/jobs/{job}/events").all()
            seqs = [event["seq"] for event in events]
            assert seqs == sorted(set(seqs)) and kinds(events)[0] == "queued" and kinds(events)[-1] == "succeeded"
            assert [event["index"] for event in events if event["kind"] == "step"] == [0, 1, 2, 3, 4]
            assert any(event["kind"] == "preview" and event["pictures"] for event in events)
            assert any(event.get("seconds_left") is not None for event in events)
            assert events[-1]["images"]
            assert server.context.metrics.listeners == 0

    asyncio.run(main())


def test_who_comes_back_goes_on_behind_the_last(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine(step_seconds=0.01)) as server:
            job = await submit(server, "a fox", steps=8)
            first = Reader(server, f"/api/v1/jobs/{job}/events")
            seen: list[dict[str, Any]] = []
            async for event in first.events():
                seen.append(event)
                if event["kind"] == "step" and event["index"] == 2:
                    break
            first.gone.set()
            again = Reader(server, f"/api/v1/jobs/{job}/events", ("Last-Event-ID", str(seen[-1]["seq"])))
            rest = await again.all()
            assert rest[0]["seq"] > seen[-1]["seq"] and kinds(rest)[-1] == "succeeded" and "queued" not in kinds(rest)
            over = Reader(server, f"/api/v1/jobs/{job}/events", ("Last-Event-ID", str(rest[-1]["seq"])))
            assert await over.all() == [] and over.status == 204
            late = await Reader(server, f"/api/v1/jobs/{job}/events").all()
            assert kinds(late)[0] == "queued" and kinds(late)[-1] == "succeeded"

    asyncio.run(main())


def test_previews_can_be_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine(step_seconds=0.005)) as server:
            job = await submit(server, "a fox")
            events = await Reader(server, f"/api/v1/jobs/{job}/events?previews=false").all()
            assert "preview" not in kinds(events) and "step" in kinds(events)

    asyncio.run(main())


def test_a_silent_stream_shows_that_it_lives(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, QUICK) as server:
            reader = Reader(server, f"/api/v1/jobs/{await submit(server, 'hang')}/events")
            beats = 0
            while beats < 3:
                beats += await asyncio.wait_for(reader.parts.get(), 10) == ALIVE
            reader.gone.set()
            await asyncio.wait_for(reader.task, 10)
            assert server.context.metrics.listeners == 0

    asyncio.run(main())


def test_who_goes_away_leaves_the_job_running(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine(step_seconds=0.005)) as server:
            job = await submit(server, "a fox", steps=20)
            reader = Reader(server, f"/api/v1/jobs/{job}/events")
            await anext(reader.events())
            reader.gone.set()
            await asyncio.wait_for(reader.task, 10)
            assert (await server.jobs.wait(job)).state == "succeeded"

    asyncio.run(main())


def test_a_slow_reader_misses_previews_and_steps_and_no_change_of_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine()) as server:
            job = await submit(server, "a fox", steps=200)
            reader = Reader(server, f"/api/v1/jobs/{job}/events")
            await asyncio.wait_for(reader.parts.get(), 10)  # its beginning, and then nothing for the whole job
            await server.jobs.wait(job)
            events = await reader.all()
            assert kinds(events).count("preview") <= 1 and kinds(events).count("step") < 100 < 200
            assert [kind for kind in kinds(events) if kind in ("queued", "started", "succeeded")] == [
                "queued", "started", "succeeded",
            ]  # fmt: skip

    asyncio.run(main())


def test_streams_end_when_the_server_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, QUICK) as server:
            reader = Reader(server, f"/api/v1/jobs/{await submit(server, 'hang')}/events")
            await asyncio.wait_for(reader.parts.get(), 10)
            server.context.closing.set()
            await reader.all()
            await asyncio.wait_for(reader.task, 10)

    asyncio.run(main())


@pytest.mark.parametrize("value", ["x", "-1", "1e3", "9" * 30])
def test_a_last_event_id_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    async def main() -> None:
        async with served(tmp_path) as server:
            job = await submit(server, "a fox")
            answer = await server.get(f"/api/v1/jobs/{job}/events", ("Last-Event-ID", value))
            assert (answer.status, answer.code) == (422, "bad_request")

    asyncio.run(main())


def test_no_job_no_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as server:
            answer = await server.get("/api/v1/jobs/nobody/events")
            assert (answer.status, answer.code) == (404, "unknown")

    asyncio.run(main())
