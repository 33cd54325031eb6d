"""One job's whole life, over and over: each time another operation on the disk fails, or is the last before SIGKILL.

After SQLite's own anomaly tests: the loop ends when a life has passed without meeting its fault.
"""

import asyncio
import hashlib
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from marmo.serve import jobs
from marmo.serve.disk import LocalDisk
from marmo.serve.inputs import attach
from marmo.serve.job import ImageQuery, Job, JobQuery, Refusal
from marmo.serve.journal import JournalError
from tests.serve.faulty_disk import (
    CHANGES,
    At,
    Moment,
    QuickDisk,
    UnsyncedDisk,
    WatchedDisk,
    input_output_error,
    kill_me,
    no_space,
)
from tests.serve.queues import ready, saying, until
from tests.serve.toy_engine import toy_picture


def png() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue()


REQUEST = saying("a fox", num_images=2).model_copy(update={"init_image": png()})


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A life with trouble waits for the queue's next look at the disk."""
    monkeypatch.setattr(jobs, "TICK", 0.05)


async def live(folder: Path, disk: LocalDisk, tell: Callable[[str], None]) -> Job:
    """Submit, follow, look, star, throw away and take back; a client tries again what it was refused."""
    async with ready(folder, disk=disk) as queue:
        job = await persistently(lambda: queue.submit(REQUEST, "ann", key="once"))
        tell(job.id)
        while not (job := await persistently(lambda: queue.wait(job.id))).ended:
            pass
        for act in (queue.thumbnail, queue.trash, queue.restore):
            await persistently(lambda act=act: act(job.images[0]))
        await until(lambda: queue.health().ready)
    return job


async def persistently(act):
    for _ in range(100):
        with suppress(Refusal, OSError):
            return await act()
        await asyncio.sleep(0.02)
    raise AssertionError("refused a hundred times")


def check(folder: Path, acknowledged: list[str]) -> None:
    """After another start on a good disk: nothing acknowledged is lost, nothing is there twice or by half."""

    async def finish() -> None:
        async with ready(folder, disk=QuickDisk()) as queue:
            known = [job.id for job in (await queue.find(JobQuery())).items]
            assert len(known) <= 1 and set(acknowledged) <= set(known)
            for id in known:
                job = await queue.wait(id)
                assert job.state == "succeeded" and len(job.images) == 2
                pictures = [await queue.picture(image) for image in job.images]
                whole = attach(job.request, {"init_image": png()})
                assert pictures == [toy_picture(whole, place) for place in range(2)]
            trashed = (await queue.find_images(ImageQuery(trashed=True))).items
            assert len((await queue.find_images(ImageQuery())).items) + len(trashed) == 2 * len(known)
            await queue._storage.sweep()

    asyncio.run(asyncio.wait_for(finish(), 30))
    with closing(sqlite3.connect(folder / "jobs.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        named = {row[0] for row in database.execute("SELECT sha256 FROM images UNION SELECT sha256 FROM inputs")}
    files = [path for path in (folder / "files").rglob("*") if path.is_file()]
    assert {path.name for path in files} == named
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in files)


@pytest.mark.long
@pytest.mark.parametrize(
    ("moment", "act"),
    [
        ("before", input_output_error),
        pytest.param("after", input_output_error, marks=pytest.mark.slow),
        pytest.param("before", no_space, marks=pytest.mark.slow),
        pytest.param("after", no_space, marks=pytest.mark.slow),
    ],
)
def test_an_error_at_every_operation(tmp_path: Path, moment: Moment, act: Callable[[str], None]) -> None:
    number, name = 0, ""
    while name is not None:
        folder, told = tmp_path / f"{number}", []
        fault = At(number, moment, act)
        try:
            job = asyncio.run(asyncio.wait_for(live(folder, WatchedDisk(fault), told.append), 30))
            assert job.state == "succeeded", (number, fault.name)
        except (OSError, JournalError):
            assert not told, f"only a server that does not come up may give up: {number} {fault.name}"
        check(folder, told)
        number, name = number + 1, fault.name
    assert number > 100


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.long
@needs_fork
@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_a_kill_at_every_operation(tmp_path: Path, moment: Moment) -> None:
    number, killed = 0, True
    while killed:
        folder = tmp_path / f"{number}"
        killed, told = run_and_kill(folder, WatchedDisk(At(number, moment, kill_me, CHANGES)))
        check(folder, told)
        number += 1
    assert number > 20


@pytest.mark.long
@needs_fork
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_a_power_cut_at_every_operation(tmp_path: Path, seed: int) -> None:
    """Files and names that no sync has reached are lost, each or not."""
    number, killed = 0, True
    while killed:
        folder, dice = tmp_path / f"{number}", random.Random(1000 * seed + number)
        killed, told = run_and_kill(folder, UnsyncedDisk(number, dice))
        check(folder, told)
        number += 1
    assert number > 20


def run_and_kill(folder: Path, disk: WatchedDisk) -> tuple[bool, list[str]]:
    """A life in a process of its own: whether it was killed, and what it had acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(live(folder, disk, lambda id: os.write(writer, f"{id}\n".encode()) and None))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as stream:
        told = stream.read().split()
    status = os.waitpid(child, 0)[1]
    assert status in (0, 9), f"the child ended with {status}"
    return status == 9, told
