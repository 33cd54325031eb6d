"""A real server on 127.0.0.1 with a free port, the dialects and the toy engine, in a thread of its own."""

import asyncio
import contextlib
import io
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marmo.serve.app import create_app
from marmo.serve.context import Context
from marmo.serve.contract import Engine
from marmo.serve.dialects.offered import dialects
from marmo.serve.job import JobQuery, Page, State
from marmo.serve.jobs import Jobs, Limits
from marmo.serve.logs import Log
from marmo.serve.server import Server, listen
from marmo.serve.settings import Settings

PATIENCE = 120
"""Seconds in which even a busy machine starts a worker."""


class Quiet(Server):
    """Signals belong to the main thread, where the test runs."""

    capture_signals = contextlib.nullcontext


@dataclass
class Served:
    url: str
    jobs: Jobs
    loop: asyncio.AbstractEventLoop
    log: io.StringIO
    folder: Path
    engine: Engine

    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def call(self, coroutine):
        """Runs something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def found(self) -> list:
        """All jobs, the newest first."""
        page: Page = self.call(self.jobs.find(JobQuery(), limit=200))
        return list(page.items)

    def stored(self, sha256: str) -> bytes:
        """A file that the queue keeps."""
        (path,) = [path for path in self.folder.rglob("*") if path.name.startswith(sha256)]
        return path.read_bytes()

    def newest(self):
        return self.found()[0]

    def wait_for(self, state: State, count: int = 1) -> list:
        """The jobs in a state, when there are that many."""

        async def look() -> list:
            async with asyncio.timeout(20):
                while True:
                    page = await self.jobs.find(JobQuery(states=frozenset({state})), limit=200)
                    if len(page.items) >= count:
                        return list(page.items)
                    await asyncio.sleep(0.005)

        return self.call(look())


@contextlib.contextmanager
def serving(
    folder: Path, engine: Engine, settings: Settings | None = None, limits: Limits | None = None
) -> Generator[Served]:
    log, started, given_up, holder = io.StringIO(), threading.Event(), threading.Event(), []

    async def main() -> None:
        listener = listen("127.0.0.1", 0)
        context = Context(Jobs(folder, engine, limits or Limits()), settings or Settings(), Log(log))
        server = Quiet(create_app(context, dialects()), context)
        async with context.jobs.opened():
            while not context.jobs.models:
                await asyncio.sleep(0.005)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            holder.extend([server, Served(url, context.jobs, asyncio.get_running_loop(), log, folder, engine)])
            started.set()
            await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
    thread.start()
    try:
        assert started.wait(PATIENCE), "the server does not come up"
        yield holder[1]
    finally:
        given_up.set()
        if holder:
            holder[1].loop.call_soon_threadsafe(holder[0].end)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not end"


def module_server(engine_of, settings: Settings | None = None):
    """A fixture: one server for a module's tests."""

    @pytest.fixture(scope="module")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
        with serving(tmp_path_factory.mktemp("served"), engine_of(), settings) as served:
            yield served

    return server
