"""How long a queue takes to be there again after kill -9, and what a long day does to its memory.

    python -m benchmarks.restart [JOBS]

restart   a journal with so many waiting jobs and one that ran when the server was killed, checked for damage as after
          any bad end: from `Jobs.opened` to the first job handed to the engine
memory    a process that takes, paints (with an engine that only copies), lists and forgets jobs: resident memory
          after the first tenth and at the end
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from benchmarks.machine import describe, memory
from marmo.request import Defaults, ImageRequest
from marmo.serve import rows, tables
from marmo.serve.contract import Finished, Model, Ready, Report, Task
from marmo.serve.disk import SqliteDatabase
from marmo.serve.job import JobQuery
from marmo.serve.jobs import Jobs, Limits
from tests.serve.toy_engine import toy_picture

MODEL = Model(id="copy", title="A copy", family="copy", sha256="0" * 64, licence=None, defaults=Defaults())
REQUEST = ImageRequest(prompt="a red fox in the snow", model="copy", seed=7, width=64, height=64, steps=4)
LIMITS = Limits(reserve=1 << 20)


class Copying:
    """An engine that has every picture already."""

    def __init__(self) -> None:
        self.reports: SimpleQueue[Report] = SimpleQueue()
        self.first: float | None = None
        self._picture = toy_picture(REQUEST, 0)

    def start(self) -> None:
        self.reports.put(Ready((MODEL,)))

    def room(self, request: ImageRequest, running: Sequence[ImageRequest]) -> bool:
        return not running

    def submit(self, task: Task) -> None:
        self.first = self.first or time.perf_counter()
        self.reports.put(Finished(task.job, task.attempt, (self._picture,), ()))

    def cancel(self, job: str) -> None: ...

    def close(self, seconds: float) -> None: ...


def fill(folder: Path, jobs: int) -> None:
    """A journal as a killed server leaves it."""
    folder.mkdir(exist_ok=True)
    database = SqliteDatabase(folder / "jobs.sqlite")
    tables.prepare(database)
    database.execute("BEGIN")
    for number in range(jobs):
        new = rows.NewJob(
            id=f"{number:032x}", owner=f"user{number % 7}", key=None, digest="", priority=0, request=REQUEST, inputs={},
            work=1e5, created=time.time(),
        )  # fmt: skip
        rows.add(database, new)
    rows.move(
        database,
        rows.Change(job=f"{0:032x}", before="queued", attempt=0, after="running", kind="started", time=time.time()),
    )
    database.execute("COMMIT")
    database.close()


async def restart(folder: Path) -> tuple[float, float, float]:
    """Seconds until the queue is open, until the first job is at the engine, and what of them was the processor's."""
    began, busy, engine = time.perf_counter(), time.process_time(), Copying()
    jobs = Jobs(folder, engine, LIMITS)
    async with jobs.opened():
        opened = time.perf_counter() - began
        while engine.first is None:
            await asyncio.sleep(0.001)
        return opened, engine.first - began, time.process_time() - busy


async def long_day(folder: Path, count: int) -> tuple[int, int]:
    """Resident bytes after a tenth of the jobs and after all."""
    jobs, early = Jobs(folder, Copying(), LIMITS), 0
    async with jobs.opened():
        while not jobs.health().ready:
            await asyncio.sleep(0.001)
        for number in range(count):
            request = REQUEST.model_copy(update={"seed": number})
            job = await jobs.wait((await jobs.submit(request, f"user{number % 1000}", key=f"{number}")).id)
            await jobs.find(JobQuery(text="fox"), limit=20)
            await jobs.trash(job.images[0])
            if number == count // 10:
                early = memory("RssAnon")
        return early, memory("RssAnon")


def main() -> None:
    """Run both and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(describe())
    with TemporaryDirectory() as name:
        fill(Path(name), count)
        opened, first, busy = asyncio.run(restart(Path(name)))
    print(
        f"restart with {count} waiting jobs: open after {opened:.2f} s, first job at the engine after {first:.2f} s, "
        f"of which {busy:.2f} s on the processor"
    )
    with TemporaryDirectory() as name:
        early, late = asyncio.run(long_day(Path(name), count // 10))
    print(f"memory after {count // 100} jobs {early / 2**20:.1f} MiB, after {count // 10} jobs {late / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
