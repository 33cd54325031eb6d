"""The queue on bad days: one test for each thing that goes wrong."""

import asyncio
import errno
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marmo.serve import clock as clocks
from marmo.serve.clock import Clock
from marmo.serve.disk import LocalDisk
from marmo.serve.gallery import TRASH_SECONDS
from marmo.serve.job import DiskFull, Draining, ImageQuery, JobQuery, QueueFull, Unknown, Unready
from marmo.serve.jobs import Jobs, Limits
from tests.serve.faulty_disk import Moment, WatchedDisk, input_output_error, no_space
from tests.serve.queues import FOX, SMALL, in_loop, ready, saying, until, until_state
from tests.serve.toy_engine import ToyEngine, toy_model, toy_picture


@in_loop
async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async with ready(tmp_path, limits=Limits(waiting=3, per_owner=2, reserve=1 << 16)) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, block.id, "running")
        for owner in ("ann", "ann", "bob"):
            await jobs.submit(FOX, owner, key="same" if owner == "bob" else None)
        with pytest.raises(QueueFull, match="the queue holds 3 waiting jobs") as caught:
            await jobs.submit(FOX, "cat")
        assert 1 <= caught.value.retry_after <= 120 and caught.value.limit == 3
        assert (await jobs.submit(FOX, "bob", key="same")).state == "queued", "what is in already is no new job"
        assert jobs.metrics()["jobs_refused_total"] == 1
        await jobs.cancel(block.id)


@in_loop
async def test_one_owner_cannot_fill_the_queue(tmp_path: Path) -> None:
    async with ready(tmp_path, limits=Limits(waiting=30, per_owner=2, reserve=1 << 16)) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, block.id, "running")
        results = await asyncio.gather(*(jobs.submit(FOX, "ann") for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(result, QueueFull) for result in results) == 8
        assert (await jobs.submit(FOX, "bob")).state == "queued"
        await jobs.cancel(block.id)


@pytest.mark.long
@in_loop
async def test_a_closing_server_takes_nothing_and_parks_what_runs(tmp_path: Path) -> None:
    engine = ToyEngine(at_once=2)
    async with ready(tmp_path, engine) as jobs:
        running = [await jobs.submit(saying("hang", seed), "ann") for seed in range(2)]
        await until(lambda: len(engine.started) == 2)
        waiting = await jobs.submit(FOX, "bob")
        listening = asyncio.create_task(jobs.wait(waiting.id))
        await asyncio.sleep(0)
        drained = asyncio.create_task(jobs.drain(30))
        await asyncio.sleep(0.05)
        assert not drained.done() and "the server is closing" in jobs.health().reasons
        with pytest.raises(Draining):
            await jobs.submit(FOX, "ann")
        await jobs.drain(0)
        await drained
        assert (await listening).state == "queued", "listeners are let go"
    async with ready(tmp_path, ToyEngine()) as jobs:
        for job in running:
            assert ((await jobs.get(job.id)).crashes, (await jobs.get(job.id)).attempt) in [(0, 1), (0, 2)]
            await jobs.cancel(job.id)
        done = await jobs.wait(waiting.id)
        assert (done.state, done.attempt) == ("succeeded", 1)
        parked = [event async for event in jobs.follow(running[0].id)]
        assert [event.kind for event in parked if event.kind in ("started", "parked")][:2] == ["started", "parked"]
        assert parked[2].code is None


@pytest.mark.long
@in_loop
async def test_what_can_end_in_time_ends(tmp_path: Path) -> None:
    async with ready(tmp_path, ToyEngine(step_seconds=0.02)) as jobs:
        job = await jobs.submit(saying("a fox", steps=20), "ann")
        await until(lambda: job.id in jobs._line.in_hand and jobs._line.in_hand[job.id].step > 0)
        await jobs.drain(20)
        assert (await jobs.get(job.id)).state == "succeeded"


@pytest.mark.long
@in_loop
async def test_a_dead_worker_costs_an_attempt_and_no_job(tmp_path: Path) -> None:
    """Four side by side, one of which kills the worker: it is quarantined, the others are painted."""
    engine = ToyEngine(at_once=4, step_seconds=0.001)
    async with ready(tmp_path, engine) as jobs:
        some = [await jobs.submit(saying("crash" if n == 1 else "a fox", n, steps=50), "ann") for n in range(4)]
        done = [await jobs.wait(job.id) for job in some]
        assert [job.state for job in done] == ["succeeded", "quarantined", "succeeded", "succeeded"]
        poison = done[1]
        assert (poison.attempt, poison.crashes, poison.code) == (3, 3, "crash")
        assert "3 workers died with this job in hand" in (poison.message or "")
        assert all(job.crashes <= 1 and len(job.images) == 1 for job in done if job is not poison)
        kinds = [event.kind async for event in jobs.follow(poison.id)]
        assert kinds == ["queued", *["started", "parked"] * 2, "started", "quarantined"]
        assert (await jobs.wait((await jobs.submit(FOX, "ann")).id)).state == "succeeded", "the server is well"
        assert jobs.metrics()["worker_deaths_total"] == 3


@in_loop
async def test_a_killed_server_does_not_count_against_its_jobs(tmp_path: Path) -> None:
    """However often: its folder is copied while the job runs, as a kill leaves it.  The worker's deaths do count."""
    folder = tmp_path / "0"
    async with ready(folder) as jobs:
        job = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, job.id, "running")
        shutil.copytree(folder, tmp_path / "1")
    for restart in range(1, 6):
        engine = ToyEngine()
        async with ready(tmp_path / f"{restart}", engine) as jobs:
            await until(lambda engine=engine: len(engine.started) == 1)
            if restart in (2, 4):
                engine._die()
                await until(lambda engine=engine: len(engine.started) == 2)
            shutil.copytree(tmp_path / f"{restart}", tmp_path / f"{restart + 1}")
    engine = ToyEngine()
    async with ready(tmp_path / "6", engine) as jobs:
        await until(lambda: len(engine.started) == 1)
        assert ((await jobs.get(job.id)).attempt, (await jobs.get(job.id)).crashes) == (9, 2)
        engine._die()
        assert (await jobs.wait(job.id)).state == "quarantined"
        parked = [event async for event in jobs.follow(job.id) if event.kind == "parked"]
        assert [event.code for event in parked] == [None, None, "crash", None, None, "crash", None, None]
        assert parked[0].message == "the server was killed"


@in_loop
async def test_cancelling_a_job_whose_worker_dies_ends_it(tmp_path: Path) -> None:
    engine = ToyEngine()
    async with ready(tmp_path, engine) as jobs:
        job = await jobs.submit(saying("hang"), "ann")
        await until(lambda: len(engine.started) == 1)
        engine.cancel = lambda job: None  # a worker that does not hear
        await jobs.cancel(job.id)
        engine._die()
        assert (await jobs.wait(job.id)).state == "cancelled"


@in_loop
async def test_a_model_that_is_gone_fails_its_jobs_alone(tmp_path: Path) -> None:
    engine = ToyEngine(models=(toy_model("one"), toy_model("two")))
    async with ready(tmp_path, engine) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        lost = await jobs.submit(FOX.model_copy(update={"model": "two"}), "ann")
        kept = await jobs.submit(FOX.model_copy(update={"model": "one"}), "ann")
        await until_state(jobs, block.id, "running")
    async with ready(tmp_path, ToyEngine(models=(toy_model("one"),))) as jobs:
        await jobs.cancel(block.id)
        assert (await jobs.wait(kept.id)).state == "succeeded"
        failed = await jobs.wait(lost.id)
        assert (failed.state, failed.code) == ("failed", "model")
        assert failed.message == "the model 'two' is no longer here"


@pytest.mark.long
@in_loop
async def test_without_a_worker_nothing_is_taken(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, ToyEngine(start_seconds=0.3), SMALL)
    async with jobs.opened():
        assert jobs.health().reasons == ("no worker is ready",)
        with pytest.raises(Unready, match="no model is ready yet"):
            await jobs.submit(FOX, "ann")
        await until(lambda: jobs.health().ready)


@in_loop
async def test_two_servers_in_one_folder_are_refused(tmp_path: Path) -> None:
    async with ready(tmp_path):
        with pytest.raises(ValueError, match="another process is at work"):
            async with Jobs(tmp_path, ToyEngine(), SMALL).opened():
                pass


@in_loop
async def test_a_lost_picture_of_a_request_fails_that_job(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        job = await jobs.submit(FOX.model_copy(update={"init_image": toy_picture(FOX, 0)}), "ann")
        file = tmp_path / "files" / job.inputs["init_image"][:2] / job.inputs["init_image"]
        file.write_bytes(b"another")
        await jobs.cancel(block.id)
        failed = await jobs.wait(job.id)
        assert (failed.state, failed.code) == ("failed", "internal")


@in_loop
async def test_a_damaged_picture_is_not_shown(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        done = await jobs.wait((await jobs.submit(FOX, "ann")).id)
        sha256 = (await jobs.image(done.images[0])).sha256
        (tmp_path / "files" / sha256[:2] / sha256).write_bytes(b"x")
        for act in (jobs.picture, jobs.thumbnail, jobs.record):
            with pytest.raises(Unknown, match="damaged"):
                await act(done.images[0])


# The disk


class SmallDisk(LocalDisk):
    """A disk with a limit on the files below it; the journal's own file is let through while the reserve is gone."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: Path, data: bytes) -> None:
        self._take(len(data))
        super().write(path, data)

    def allocate(self, path: Path, size: int) -> None:
        self._take(size)
        super().allocate(path, size)

    def free(self, folder: Path) -> int:
        return self.room

    def remove(self, path: Path) -> None:
        if path.name == "reserve" and path.exists():
            self.room += path.stat().st_size
        super().remove(path)

    def _take(self, size: int) -> None:
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= size


@pytest.mark.long
@in_loop
async def test_a_full_disk_parks_the_result_until_there_is_room(tmp_path: Path) -> None:
    disk, engine = SmallDisk(100 << 20), ToyEngine()
    async with ready(tmp_path, engine, disk=disk) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, block.id, "running")
        job = await jobs.submit(FOX, "ann")
        disk.room = 100
        with pytest.raises(DiskFull) as caught:
            await jobs.submit(FOX, "ann")
        assert caught.value.bytes_needed > 1 << 20
        await jobs.cancel(block.id)
        await until(lambda: "the disk is full" in jobs.health().reasons)
        assert (await jobs.get(job.id)).state == "running", "its picture waits in memory"
        disk.room = 100 << 20
        done = await jobs.wait(job.id)
        assert (done.state, done.attempt) == ("succeeded", 1)
        assert await jobs.picture(done.images[0]) == toy_picture(done.request, 0)
        await until(lambda: jobs.health().ready)
        assert (await jobs.wait((await jobs.submit(FOX, "ann")).id)).state == "succeeded"


@pytest.mark.long
@in_loop
async def test_the_reserve_lets_the_journal_finish(tmp_path: Path) -> None:
    """A disk that is full for the journal, too, until the reserve is gone."""
    reserve, full = tmp_path / "reserve", threading.Event()

    def watch(name: str, moment: Moment) -> None:
        if full.is_set() and reserve.exists() and moment == "before" and name == "COMMIT":
            no_space(name)

    class Disk(WatchedDisk):
        def free(self, folder: Path) -> int:
            return 0 if full.is_set() else super().free(folder)

    async with ready(tmp_path, disk=Disk(watch)) as jobs:
        job = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, job.id, "running")
        assert reserve.stat().st_size == SMALL.reserve
        full.set()
        await jobs.cancel(job.id)
        assert (await jobs.wait(job.id)).state == "cancelled" and not reserve.exists()
        with pytest.raises(DiskFull):
            await jobs.submit(FOX, "ann")
        full.clear()
        await until(lambda: jobs.health().ready and reserve.exists())
        assert (await jobs.wait((await jobs.submit(FOX, "ann")).id)).state == "succeeded"


@pytest.mark.long
@in_loop
async def test_a_broken_disk_refuses_and_heals(tmp_path: Path) -> None:
    """While nothing can be written, clients are told; jobs in hand wait; afterwards nothing is missing."""
    broken = threading.Event()

    def watch(name: str, moment: Moment) -> None:
        if broken.is_set() and name in ("COMMIT", "write") and moment == "after":
            input_output_error(name)  # it has happened, and nobody knows

    async with ready(tmp_path, ToyEngine(step_seconds=0.01), disk=WatchedDisk(watch)) as jobs:
        job = await jobs.submit(saying("a fox", steps=30), "ann")
        await until_state(jobs, job.id, "running")
        broken.set()
        with pytest.raises(Unready):
            await jobs.submit(saying("an owl"), "ann")
        await until(lambda: jobs._line.in_hand[job.id].phase == "ending")
        assert not jobs.health().ready
        await asyncio.sleep(0.3)
        broken.clear()
        assert (await jobs.wait(job.id)).state == "succeeded"
        await until(lambda: jobs.health().ready)
        found = (await jobs.find(JobQuery())).items
        assert len(found) == 2, "the commit had happened: the job is there, though its client was told otherwise"
        assert (await jobs.wait(found[0].id)).state == "succeeded", "and it is painted without a restart"


# The clocks


@dataclass
class Jumping:
    """A clock on the wall that can be set."""

    offset: float = 0.0
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(wall=lambda: clocks.SYSTEM.wall() + self.offset)


@pytest.mark.long
@pytest.mark.parametrize("jump", [-1e9, 1e9])
@in_loop
async def test_a_jumping_clock_changes_nothing(tmp_path: Path, jump: float) -> None:
    wall = Jumping()
    engine = ToyEngine(step_seconds=0.002)
    async with ready(tmp_path, engine, clock=wall.clock) as jobs:
        thrown = (await jobs.wait((await jobs.submit(FOX, "ann")).id)).images[0]
        await jobs.trash(thrown)
        some = [await jobs.submit(saying("a fox", n), "ann") for n in range(6)]
        wall.offset = jump
        some += [await jobs.submit(saying("a fox", n), "bob") for n in range(6)]
        for job in some:
            assert (await jobs.wait(job.id)).state == "succeeded"
        await jobs._storage.purge(0) if jump < 0 else None
        assert [image.id for image in (await jobs.find_images(ImageQuery(trashed=True))).items] == [thrown]
        listed = [job.id for job in (await jobs.find(JobQuery())).items]
        assert listed[::-1][1:] == [job.id for job in some], "lists go by the order of submission"


@pytest.mark.long
@in_loop
async def test_ageing_survives_a_restart_with_another_clock(tmp_path: Path) -> None:
    wall = Jumping()
    async with ready(tmp_path, clock=wall.clock) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, block.id, "running")
        some = [await jobs.submit(saying("a fox", n), "ann") for n in range(3)]
    wall.offset = -1e9
    engine = ToyEngine()
    async with ready(tmp_path, engine, clock=wall.clock) as jobs:
        await until_state(jobs, block.id, "running")
        await jobs.cancel(block.id)
        for job in some:
            await jobs.wait(job.id)
    assert [id for id, _ in engine.started][1:] == [job.id for job in some]


def test_after_a_jump_nothing_is_thrown_away() -> None:
    now = 1000.0
    true = clocks.Watch(Clock(lambda: now, lambda: 5e8 + now))
    jumped = clocks.Watch(Clock(lambda: now, lambda: 5e8 + now + (1e9 if now > 1000 else 0)))
    assert true.is_due() and jumped.is_due()
    assert not true.is_due(), "once an hour"
    now += 3601
    assert true.is_due() and not jumped.is_due()


@in_loop
async def test_the_trash_is_emptied_after_thirty_days(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        twins = [(await jobs.wait((await jobs.submit(FOX, "ann")).id)).images[0] for _ in range(2)]
        other = (await jobs.wait((await jobs.submit(saying("an owl"), "ann")).id)).images[0]
        stored = [await jobs.image(id) for id in (*twins, other)]
        assert stored[0].sha256 == stored[1].sha256
        for id in (twins[0], other):
            thrown = await jobs.trash(id)
        assert thrown.deleted is not None
        await jobs._storage.purge(thrown.deleted + TRASH_SECONDS - 1)
        assert len((await jobs.find_images(ImageQuery(trashed=True))).items) >= 1
        await jobs._storage.purge(thrown.deleted + TRASH_SECONDS + 1)
        assert not (await jobs.find_images(ImageQuery(trashed=True))).items
        assert await jobs.picture(twins[1]), "the same bytes are another picture's, too"
        names = {path.name for path in (tmp_path / "files").rglob("*") if path.is_file()}
        assert names == {stored[0].sha256}
        assert (await jobs.get(stored[2].job)).images == ()
