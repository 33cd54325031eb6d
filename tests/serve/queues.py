"""What tests of the queue share: one that is ready, with a toy engine, and a way to wait for something."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec

from marmo.request import ImageRequest
from marmo.serve.clock import SYSTEM, Clock
from marmo.serve.disk import Disk
from marmo.serve.jobs import Jobs, Limits
from tests.serve.toy_engine import ToyEngine

P = ParamSpec("P")

SMALL = Limits(reserve=1 << 16)
FOX = ImageRequest(prompt="a fox", seed=7)


@asynccontextmanager
async def ready(
    folder: Path,
    engine: ToyEngine | None = None,
    limits: Limits = SMALL,
    disk: Disk | None = None,
    clock: Clock = SYSTEM,
) -> AsyncGenerator[Jobs]:
    """A queue that is open and whose engine has come up."""
    jobs = Jobs(folder, engine or ToyEngine(), limits, disk=disk, clock=clock)
    async with jobs.opened():
        await until(lambda: jobs.health().ready)
        yield jobs


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for it; `TimeoutError` if it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.003)


async def until_state(jobs: Jobs, job: str, state: str, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while (await jobs.get(job)).state != state:
            await asyncio.sleep(0.003)


def saying(words: str, seed: int = 7, steps: int | None = None, num_images: int = 1) -> ImageRequest:
    return ImageRequest(prompt=words, seed=seed, steps=steps, num_images=num_images)


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run
