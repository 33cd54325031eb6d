"""The queue before a toy engine: what is promised to clients, one test each."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from marmo.request import ImageRequest
from marmo.serve.jobs import Jobs, Limits
from tests.serve.toy_engine import ToyEngine

SMALL = Limits(reserve=1 << 16)


@asynccontextmanager
async def ready(folder: Path, engine: ToyEngine | None = None, limits: Limits = SMALL) -> AsyncGenerator[Jobs]:
    jobs = Jobs(folder, engine or ToyEngine(), limits)
    async with jobs.opened():
        while not jobs.health().ready:
            await asyncio.sleep(0.005)
        yield jobs


def test_a_job_is_painted(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready(tmp_path) as jobs:
            job = await jobs.submit(ImageRequest(prompt="a fox", seed=7, num_images=2), "ann")
            assert (job.state, job.request.steps, job.request.model) == ("queued", 4, "toy")
            kinds = [event.kind async for event in jobs.follow(job.id)]
            done = await jobs.get(job.id)
            assert done.state == "succeeded" and len(done.images) == 2
            assert kinds[0] == "queued" and kinds[-1] == "succeeded" and kinds.count("step") == 4
            record = await jobs.record(done.images[1])
            assert record.request == done.request and record.seed == 8
            assert (await jobs.thumbnail(done.images[0]))[8:12] == b"WEBP"

    asyncio.run(main())
