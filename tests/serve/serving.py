"""The whole application before a queue with a toy engine, for tests of what is served."""

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marmo.serve.app import create_app
from marmo.serve.context import Context, Dialect
from marmo.serve.dialects.offered import dialects
from marmo.serve.doors import App
from marmo.serve.jobs import Jobs, Limits
from marmo.serve.logs import Log
from marmo.serve.settings import Settings
from tests.serve.asgi import Answer, ask
from tests.serve.toy_engine import ToyEngine

SMALL = Limits(reserve=1 << 16)
PLAIN = Settings()
DIALECTS = dialects()
"""All that `marmo serve` speaks."""


@dataclass(frozen=True)
class Served:
    """An application with its parts."""

    app: App
    context: Context
    log: io.StringIO

    @property
    def jobs(self) -> Jobs:
        return self.context.jobs

    async def get(self, path: str, *headers: tuple[str, str], **more: Any) -> Answer:
        return await ask(self.app, "GET", path, *headers, **more)

    async def post(self, path: str, value: object = None, *headers: tuple[str, str], **more: Any) -> Answer:
        return await ask(self.app, "POST", path, *headers, value=value, **more)

    async def painted(self, prompt: str = "a fox", *headers: tuple[str, str], **fields: Any) -> dict[str, Any]:
        """A job that has succeeded."""
        answer = await self.post("/api/v1/jobs", {"prompt": prompt, "seed": 7, **fields}, *headers)
        assert answer.status == 202, answer.body
        await self.jobs.wait(answer.json()["id"])
        return (await self.get(answer.headers["location"], *headers)).json()


@asynccontextmanager
async def served(
    folder: Path,
    settings: Settings = PLAIN,
    engine: ToyEngine | None = None,
    limits: Limits = SMALL,
    speaking: Sequence[Dialect] = (),
    ready: bool = True,
) -> AsyncGenerator[Served]:
    """Opened, and ready unless that is not waited for."""
    log = io.StringIO()
    jobs = Jobs(folder, engine or ToyEngine(), limits)
    context = Context(jobs=jobs, settings=settings, log=Log(log))
    async with jobs.opened():
        while ready and not jobs.health().ready:
            await asyncio.sleep(0.002)
        yield Served(create_app(context, speaking), context, log)
