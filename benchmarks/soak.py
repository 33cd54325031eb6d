"""Hours of an ordinary day: what the memory and the descriptors of server and worker do in the long run.

    python -m benchmarks.soak [MINUTES] [VISITS_PER_SECOND]

Listeners hold streams of events all the time.  Visitors come and go, each with a connection of its own: they submit,
follow, fetch the picture, leave in the middle, cancel, delete, start from a picture, ask as A1111's clients do.  Every
30 seconds resident memory, descriptors and threads of both processes are read from /proc (Linux).  At the end the
second quarter of the time is compared with the last, and every promise that a visitor saw broken is counted.

The model is the untrained stand-in.  Client, server and worker share the machine's cores.
"""

import asyncio
import base64
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean

from PIL import Image

from benchmarks.load import SMALL, number, server
from benchmarks.load_client import Connection
from benchmarks.machine import describe, memory

LISTENERS = 100
MOST_VISITORS = 50
"""At once; while so many are here nobody else comes."""
SAMPLE = 30.0
"""Seconds between two looks."""
DREAM = 20.0
"""Seconds that a listener is elsewhere, at most, before it follows the next new job."""


class Town:
    """Everybody who uses the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen, self.wrong = Counter[str](), Counter[str]()
        self._newest = asyncio.get_running_loop().create_future()
        """The next job that is submitted."""

    async def paint(self, connection: Connection) -> None:
        """Submit, follow, look, tidy up."""
        job = await self._submit(connection, SMALL | {"seed": random.randrange(2**32)})
        end = await self._followed(job)
        self._expect(end == "succeeded", f"a job ended as {end}")
        connection = await Connection.to(self.port)  # the other may have been idle for longer than the server bears
        image = f"/api/v1/images/{(await connection.ask('GET', f'/api/v1/jobs/{job}')).value['images'][0]}"
        for path in (f"{image}/file", f"{image}/thumbnail", f"{image}/record", "/api/v1/images?text=fox&limit=20"):
            answer = await connection.ask("GET", path)
            self._expect(answer.status == 200, f"GET {path.rsplit('/', 1)[-1]} answered {answer.status}")
        if random.random() < 0.5:
            await connection.ask("DELETE", image)
        connection.close()

    async def edit(self, connection: Connection) -> None:
        """Start from a picture, and a queue of two."""
        picture = Image.effect_noise((64, 64), 50).convert("RGB")
        stream = BytesIO()
        picture.save(stream, "PNG")
        value = SMALL | {"init_image": base64.b64encode(stream.getvalue()).decode(), "num_images": 2}
        end = await self._followed(await self._submit(connection, value))
        self._expect(end == "succeeded", f"an edit ended as {end}")

    async def cancel(self, connection: Connection) -> None:
        """Change one's mind."""
        job = await self._submit(connection, SMALL | {"steps": 200})
        await asyncio.sleep(random.uniform(0, 1))
        await connection.ask("POST", f"/api/v1/jobs/{job}/cancel")
        end = await self._followed(job)
        self._expect(end in ("cancelled", "succeeded"), f"a cancelled job ended as {end}")

    async def leave(self, connection: Connection) -> None:
        """Listen for a moment and go, without a word."""
        job, stream = await self._submit(connection, SMALL), await Connection.to(self.port)
        async for _ in stream.events(f"/api/v1/jobs/{job}/events"):
            break
        stream.close()

    async def ask_as_a1111(self, connection: Connection) -> None:
        """A synchronous client and its look at the progress."""
        painting = asyncio.create_task(connection.ask("POST", "/sdapi/v1/txt2img", SMALL | {"cfg_scale": 5}))
        await self._look("/sdapi/v1/progress")
        answer = await painting
        self._expect(answer.status == 200, f"txt2img answered {answer.status}")

    async def ask_nonsense(self, connection: Connection) -> None:
        """What is refused must not stay either."""
        for path, value in (("/api/v1/jobs", {"steps": -1}), ("/sdapi/v1/img2img", {"init_images": ["no picture"]})):
            answer = await connection.ask("POST", path, value)
            self._expect(answer.status in (400, 422), f"nonsense was answered {answer.status}")

    async def listen(self) -> None:
        """Streams of events, of one new job after the other, for ever."""
        while True:
            await asyncio.sleep(random.uniform(0, DREAM))
            await self._followed(await asyncio.shield(self._newest))

    async def visit(self, kind: Callable[["Town", Connection], Awaitable[None]]) -> None:
        connection = await Connection.to(self.port)
        try:
            await kind(self, connection)
            self.seen[kind.__name__] += 1
        except (OSError, asyncio.IncompleteReadError, AssertionError) as error:
            self.wrong[f"{kind.__name__}: {type(error).__name__}"] += 1
        finally:
            connection.close()

    async def _submit(self, connection: Connection, value: Mapping[str, object]) -> str:
        answer = await connection.ask("POST", "/api/v1/jobs", value)
        assert answer.status == 202, answer
        self._newest.set_result(answer.value["id"])
        self._newest = asyncio.get_running_loop().create_future()
        return answer.value["id"]

    async def _followed(self, job: str) -> str:
        """The last event's kind; nothing where the job had ended and had no more to say."""
        connection, last = await Connection.to(self.port), ""
        async for kind, _ in connection.events(f"/api/v1/jobs/{job}/events"):
            last = kind
        connection.close()
        return last

    async def _look(self, path: str) -> None:
        connection = await Connection.to(self.port)
        answer = await connection.ask("GET", path)
        self._expect(answer.status == 200, f"GET {path} answered {answer.status}")
        connection.close()

    def _expect(self, kept: bool, otherwise: str) -> None:
        if not kept:
            self.wrong[otherwise] += 1


VISITS: Mapping[Callable[[Town, Connection], Awaitable[None]], int] = {
    Town.paint: 6, Town.edit: 2, Town.cancel: 2, Town.leave: 2, Town.ask_as_a1111: 3, Town.ask_nonsense: 1,
}  # fmt: skip
"""What visitors do, and how often."""


def sample(process: int) -> dict[str, float]:
    """Of one process: resident megabytes, descriptors, threads."""
    place = Path(f"/proc/{process}")
    return {
        "MB": memory("VmRSS", process) / 1e6,
        "descriptors": len(list((place / "fd").iterdir())),
        "threads": len(list((place / "task").iterdir())),
    }


def children(process: int) -> list[int]:
    """The processes that it has started and that are alive."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


async def soak(port: int, process: int, seconds: float, rate: float) -> None:
    """The day, and what it did.  Raises what a listener met."""
    town, samples = Town(port), list[dict[str, float]]()
    listeners = [asyncio.create_task(town.listen()) for _ in range(LISTENERS)]
    worker, until = children(process)[0], time.monotonic() + seconds
    coming = asyncio.create_task(_come(town, until, rate))
    while time.monotonic() < until:
        await asyncio.wait(listeners, timeout=SAMPLE, return_when=asyncio.FIRST_COMPLETED)
        for listener in listeners:
            if listener.done():
                listener.result()  # none ends by itself
        assert children(process) == [worker], "the worker was replaced"
        samples.append(await _sampled(port, process, worker))
        print("  ".join(f"{name} {value:.1f}" for name, value in samples[-1].items()), flush=True)
    await coming
    for listener in listeners:
        listener.cancel()
    _tell(samples, town)


async def _come(town: Town, until: float, rate: float) -> None:
    """Visitors, at this rate on average, then until the last has gone."""
    kinds, weights, here = list(VISITS), list(VISITS.values()), set[asyncio.Task[None]]()
    while time.monotonic() < until:
        await asyncio.sleep(random.expovariate(rate))
        if len(here) < MOST_VISITORS:
            task = asyncio.create_task(town.visit(random.choices(kinds, weights)[0]))
            here.add(task)
            task.add_done_callback(here.discard)
    await asyncio.wait(here | {asyncio.create_task(asyncio.sleep(0))})


async def _sampled(port: int, process: int, worker: int) -> dict[str, float]:
    connection = await Connection.to(port)
    waiting = await number(connection, "marmo_jobs_waiting")
    connection.close()
    both = {"server": sample(process), "worker": sample(worker)}
    return {f"{name} {field}": value for name, one in both.items() for field, value in one.items()} | {
        "waiting": waiting
    }


def _tell(samples: Sequence[Mapping[str, float]], town: Town) -> None:
    """The second quarter beside the last: the first may still warm up."""
    quarter = max(len(samples) // 4, 1)
    print(f"{dict(town.seen)}, wrong: {dict(town.wrong)}")
    for name in samples[0]:
        early = mean(one[name] for one in samples[quarter : 2 * quarter])
        late = mean(one[name] for one in samples[-quarter:])
        change = f", {100 * (late / early - 1):+.1f} %" if early else ""
        print(f"{name:20} {early:8.1f} -> {late:8.1f}{change}")


def main(minutes: float = 60.0, rate: float = 2.0) -> None:
    """Start a server, let the day pass, print."""
    from marmo.serve.server import raise_file_limit

    raise_file_limit()
    print(describe())
    with server(1000) as (port, process):
        asyncio.run(soak(port, process, 60 * minutes, rate))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
