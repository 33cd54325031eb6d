"""The server under load, on the machine as it is: listeners and submitters, cancelling, five times too much.

    python -m benchmarks.load [crowd|cancel|overload] [SECONDS]

crowd      1,000 listeners and 200 submitters: the time of a submission beside that of an echo in the same run, and
           the memory of the server at the beginning and at the end
cancel     from the request to cancel to the event that says so, beside the time of a step
overload   jobs delivered per second when five times as many are asked for, beside what the worker delivers from a
           queue that is never empty

The model is the untrained stand-in.  Client, server and worker share the machine's cores.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import IO, cast

from benchmarks.checkpoint import random_checkpoint
from benchmarks.load_client import Connection
from benchmarks.machine import describe, memory

LISTENERS, SUBMITTERS = 1000, 200
PAUSE = 4.0
"""Seconds between two requests of one submitter, on average: together 50 requests a second, half of them jobs."""
SMALL = {"prompt": "a red fox in the snow", "width": 64, "height": 64, "steps": 4}
LONG = {**SMALL, "steps": 200}
OVERLOAD = 5
TURNS, SENDERS = 6, 16
"""Of the two that are compared; connections that ask at once."""


@contextmanager
def server(waiting: int) -> Generator[tuple[int, int]]:
    """Port and process of a server that is ready."""
    with TemporaryDirectory() as folder:
        model = random_checkpoint(Path(folder) / "stand-in.safetensors")
        command = [sys.executable, "-m", "benchmarks.load_server", str(model), f"{folder}/data", str(waiting)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port, number = map(int, cast(IO[str], process.stdout).readline().split())
            asyncio.run(_ready(port))
            yield port, number
        finally:
            process.terminate()
            process.wait(60)


async def crowd(port: int, process: int, seconds: float) -> None:
    """Everybody at once."""
    connection = await Connection.to(port)
    ids = [(await connection.ask("POST", "/api/v1/jobs", SMALL)).value["id"] for _ in range(LISTENERS)]
    heard, times = Counter[str](), {"/api/v1/jobs": list[float](), "/echo": list[float]()}
    listeners = [asyncio.create_task(_listen(port, ids, heard)) for _ in range(LISTENERS)]
    while heard["queued"] + heard["succeeded"] < LISTENERS:  # every stream has begun
        await asyncio.sleep(0.2)
    until = time.perf_counter() + seconds
    submitters = [asyncio.create_task(_submit(port, ids, until, times)) for _ in range(SUBMITTERS)]
    await asyncio.sleep(seconds / 4)
    begin = memory("VmRSS", process)
    await asyncio.gather(*submitters)
    end = memory("VmRSS", process)
    for task in listeners:
        task.cancel()
    job, echo = (quantiles(times[path]) for path in ("/api/v1/jobs", "/echo"))
    print(f"{LISTENERS} listeners, {SUBMITTERS} submitters, {seconds:.0f} s, {sum(heard.values())} events heard")
    print(f"submit: {len(times['/api/v1/jobs'])}, p50 {job[0]:.1f} ms, p99 {job[1]:.1f} ms")
    print(f"echo:   {len(times['/echo'])}, p50 {echo[0]:.1f} ms, p99 {echo[1]:.1f} ms")
    judge("p99 of submit against max(100 ms, 3 echoes)", job[1], max(100.0, 3 * echo[1]))
    print(f"memory of the server: {begin / 1e6:.1f} MB after a quarter of the time, {end / 1e6:.1f} MB at the end")


async def cancel(port: int, process: int, seconds: float) -> None:
    """One job after the other, each stopped somewhere on its way."""
    times, steps, until = list[float](), list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until:
        asking, listening = await Connection.to(port), await Connection.to(port)
        job = (await asking.ask("POST", "/api/v1/jobs", LONG)).value["id"]
        stop_at, begun, last = random.randint(1, 20), 0.0, 0.0
        async for kind, event in listening.events(f"/api/v1/jobs/{job}/events"):
            now = time.perf_counter()
            if kind == "step":
                steps += [now - last] if last else []
                last = now
                if event["index"] == stop_at:
                    await asyncio.sleep(random.uniform(0, steps[-1]))
                    begun = time.perf_counter()
                    await asking.ask("POST", f"/api/v1/jobs/{job}/cancel")
            if kind == "cancelled":
                times.append(now - begun)
        asking.close()
        listening.close()
    took, step = quantiles(times), quantiles(steps)
    print(f"cancel: {len(times)}, p50 {took[0]:.1f} ms, p99 {took[1]:.1f} ms")
    print(f"a step: {len(steps)}, p50 {step[0]:.1f} ms, p99 {step[1]:.1f} ms")
    judge("p99 of cancel against a step + 100 ms", took[1], step[1] + 100)


async def overload(port: int, process: int, seconds: float) -> None:
    """What the worker delivers when just kept busy, and when five times as much is asked for; in turns, because other
    programs may be at work."""
    usual, flooded, answers = list[float](), list[float](), Counter[int]()
    await _deliver(port, seconds / TURNS / 2, rate=None)  # loads the model and fills the queue
    for _ in range(TURNS):
        usual.append((await _deliver(port, seconds / TURNS / 2, rate=None))[0])
        rate, statuses = await _deliver(port, seconds / TURNS / 2, rate=OVERLOAD * usual[-1])
        flooded.append(rate)
        answers.update(statuses)
    capacity, delivered = mean(usual), mean(flooded)
    print(f"capacity {capacity:.2f} jobs/s, asked for {OVERLOAD} times that: delivered {delivered:.2f} jobs/s")
    print(f"answers {dict(answers)}, delivered / capacity {delivered / capacity:.3f}")
    assert answers.keys() <= {202, 429}, answers


async def _deliver(port: int, seconds: float, rate: float | None) -> tuple[float, Counter[int]]:
    """Jobs delivered per second, and how submissions were answered: at this rate, or just enough to keep it busy."""
    watching, statuses = await Connection.to(port), Counter[int]()
    senders = [await Connection.to(port) for _ in range(SENDERS)]
    start, until = time.perf_counter(), time.perf_counter() + seconds
    before, sent = await _delivered(watching), 0
    while (now := time.perf_counter()) < until:
        due = int(rate * (now - start) - sent if rate else WAITING - await _waiting(watching))
        parts = [_send(sender, len(range(number, due, SENDERS)), statuses) for number, sender in enumerate(senders)]
        await asyncio.gather(*parts)
        sent += max(due, 0)
        await asyncio.sleep(0.05)
    count = await _delivered(watching) - before
    for connection in (watching, *senders):
        connection.close()
    print(
        f"  {'flooded' if rate else 'usual'}: asked for {sent / seconds:.1f}, delivered {count / seconds:.1f} a second"
    )
    return count / (time.perf_counter() - start), statuses


async def _send(connection: Connection, count: int, statuses: Counter[int]) -> None:
    for _ in range(count):
        statuses[(await connection.ask("POST", "/api/v1/jobs", SMALL)).status] += 1


async def _listen(port: int, ids: list[str], heard: Counter[str]) -> None:
    """Streams of events, one job after the other, for ever."""
    while True:
        connection = await Connection.to(port)
        async for kind, _ in connection.events(f"/api/v1/jobs/{random.choice(ids[-LISTENERS:])}/events"):
            heard[kind] += 1
        connection.close()


async def _submit(port: int, ids: list[str], until: float, times: dict[str, list[float]]) -> None:
    """A job or an echo, a pause, and so on."""
    connection = await Connection.to(port)
    await asyncio.sleep(random.uniform(0, PAUSE))
    while time.perf_counter() < until:
        path = random.choice(list(times))
        answer = await connection.ask("POST", path, SMALL)
        assert answer.status == 202, answer
        times[path].append(answer.seconds)
        if path != "/echo":
            ids.append(answer.value["id"])
        await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE)
    connection.close()


async def _ready(port: int) -> None:
    connection = await Connection.to(port)
    while (await connection.ask("GET", "/readyz")).status != 200:
        await asyncio.sleep(0.1)


async def _delivered(connection: Connection) -> int:
    return int(await number(connection, "marmo_jobs_succeeded_total"))


async def _waiting(connection: Connection) -> int:
    return int(await number(connection, "marmo_jobs_waiting"))


async def number(connection: Connection, name: str) -> float:
    """A counter or gauge of the server."""
    lines = (await connection.ask("GET", "/metrics")).value.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def judge(what: str, measured: float, allowed: float) -> None:
    """Milliseconds against what is allowed."""
    print(f"{what}: {measured:.1f} / {allowed:.1f} ms, {'held' if measured <= allowed else 'MISSED'}")


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000


WAITING = 32
"""Jobs that may wait under overload: the queue is always full, and never long."""
PARTS = {"crowd": (crowd, 20_000), "cancel": (cancel, 20_000), "overload": (overload, WAITING)}
"""What is measured, and how many jobs may wait."""


def main(names: list[str], seconds: float) -> None:
    """Each part with a server of its own."""
    from marmo.serve.server import raise_file_limit

    raise_file_limit()
    print(f"{describe()}, load average {os.getloadavg()[0]:.1f}")
    for name in names:
        part, waiting = PARTS[name]
        with server(waiting) as (port, process):
            asyncio.run(part(port, process, seconds))


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument in PARTS]
    numbers = [float(argument) for argument in sys.argv[1:] if argument not in PARTS]
    main(given or list(PARTS), numbers[0] if numbers else 60.0)
