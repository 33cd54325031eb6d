"""The queue before a toy engine, on good days: what is promised to clients."""

import asyncio
import base64
import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from marmo.request import ImageRequest
from marmo.serve import rows
from marmo.serve.contract import Offered, Task
from marmo.serve.disk import Row, Value
from marmo.serve.job import ImageQuery, JobEvent, JobQuery, KeyConflict, Unknown, UnknownModel, Unready
from marmo.serve.jobs import Jobs
from tests.serve.queues import FOX, SMALL, in_loop, ready, saying, until, until_state
from tests.serve.toy_engine import ToyEngine, toy_model, toy_picture


@in_loop
async def test_a_job_is_painted(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        job = await jobs.submit(saying("a fox", num_images=2), "ann")
        assert (job.state, job.request.steps, job.request.model) == ("queued", 4, "toy")
        events = [event async for event in jobs.follow(job.id)]
        done = await jobs.get(job.id)
        assert (done.state, done.attempt, done.notes) == ("succeeded", 1, ("painted by a toy",))
        assert done.started and done.finished and done.created <= done.started <= done.finished
        assert [await jobs.picture(id) for id in done.images] == [toy_picture(done.request, n) for n in range(2)]
        kinds = [event.kind for event in events]
        assert kinds[0] == "queued" and kinds[-1] == "succeeded" and kinds.count("step") == 4
        assert events[-1].images == done.images
        assert [event.seq for event in events] == sorted({event.seq for event in events})


@in_loop
async def test_the_same_key_is_the_same_job(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        request = ImageRequest(prompt="a fox")  # no seed: each resolution would draw another
        twice = await asyncio.gather(*(jobs.submit(request, "ann", key="k") for _ in range(20)))
        assert len({job.id for job in twice}) == 1
        assert (await jobs.wait(twice[0].id)).request.seed == twice[0].request.seed
        assert (await jobs.submit(request, "ann", key="k")).state == "succeeded"
        with pytest.raises(KeyConflict):
            await jobs.submit(saying("an owl"), "ann", key="k")
        assert (await jobs.submit(request, "bob", key="k")).id != twice[0].id
        assert jobs.metrics()["jobs_submitted_total"] == 2


@in_loop
async def test_what_cannot_be_painted_is_refused(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        for request in (ImageRequest(width=20), ImageRequest(strength=0.5), ImageRequest(model="/etc/passwd")):
            with pytest.raises(ValueError):
                await jobs.submit(request, "ann")
        with pytest.raises(UnknownModel, match="there are toy"):
            await jobs.submit(ImageRequest(model="other"), "ann")
        with pytest.raises(ValueError, match="priority is -2 to 2"):
            await jobs.submit(FOX, "ann", priority=3)
        assert not (await jobs.find(JobQuery())).items


@in_loop
async def test_pictures_in_a_request_are_kept_by_hash(tmp_path: Path) -> None:
    seen: list[Task] = []

    class Looking(ToyEngine):
        def submit(self, task: Task) -> None:
            seen.append(task)
            super().submit(task)

    stream = BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    async with ready(tmp_path, Looking()) as jobs:
        request = ImageRequest(prompt="a fox", seed=1, init_image=stream.getvalue())
        job = await jobs.wait((await jobs.submit(request, "ann", key="k")).id)
        again = await jobs.submit(request, "ann", key="k")
        other = request.model_copy(update={"init_image": stream.getvalue() + b"\0"})
        with pytest.raises(KeyConflict):
            await jobs.submit(other, "ann", key="k")
    assert again.id == job.id and job.request.init_image == b"" and list(job.inputs) == ["init_image"]
    assert seen[0].request.init_image == stream.getvalue()
    row = (tmp_path / "jobs.sqlite").read_bytes()
    assert base64.b64encode(stream.getvalue()) not in row and stream.getvalue() not in row


@in_loop
async def test_a_waiting_job_is_cancelled_at_once(tmp_path: Path) -> None:
    engine = ToyEngine()
    async with ready(tmp_path, engine) as jobs:
        first = await jobs.submit(saying("hang"), "ann")
        second = await jobs.submit(FOX, "ann")
        await until_state(jobs, first.id, "running")
        assert (await jobs.cancel(second.id)).state == "cancelled"
        assert (await jobs.cancel(second.id)).state == "cancelled"
        await jobs.cancel(first.id)
        assert (await jobs.wait(first.id)).state == "cancelled"
        assert [job for job, _ in engine.started] == [first.id]
        assert [event.kind async for event in jobs.follow(second.id)] == ["queued", "cancelled"]


@pytest.mark.long
@in_loop
async def test_cancelling_one_leaves_its_batch_mates(tmp_path: Path) -> None:
    engine = ToyEngine(step_seconds=0.002, at_once=4)
    engine.go.clear()
    async with ready(tmp_path, engine) as jobs:
        some = [await jobs.submit(saying("a fox", seed, steps=60), "ann") for seed in range(4)]
        await until(lambda: engine.most_at_once == 4)
        await jobs.cancel(some[1].id)
        engine.go.set()
        assert [(await jobs.wait(job.id)).state for job in some] == ["succeeded", "cancelled", "succeeded", "succeeded"]


@pytest.mark.long
@in_loop
async def test_cancelling_at_any_moment_ends_the_job_one_way(tmp_path: Path) -> None:
    async with ready(tmp_path, ToyEngine(step_seconds=0.001)) as jobs:
        states: set[str] = set()
        for number in range(20):
            job = await jobs.submit(saying("a fox", number), "ann")
            seen = 0
            async for _ in jobs.follow(job.id):
                if (seen := seen + 1) > number:
                    break
            await jobs.cancel(job.id)
            done = await jobs.wait(job.id)
            states.add(done.state)
            assert bool(done.images) == (done.state == "succeeded")
        assert states == {"cancelled", "succeeded"}


@in_loop
async def test_a_failure_says_why(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        job = await jobs.wait((await jobs.submit(saying("fail"), "ann")).id)
        assert (job.state, job.code, job.message) == ("failed", "request", "the toy was told to fail")
        last = [event async for event in jobs.follow(job.id)][-1]
        assert (last.kind, last.code, last.message) == ("failed", job.code, job.message)


@in_loop
async def test_a_reader_that_comes_back_misses_nothing(tmp_path: Path) -> None:
    async with ready(tmp_path, ToyEngine(step_seconds=0.002)) as jobs:
        job = await jobs.submit(saying("a fox", steps=50), "ann")
        seen: list[JobEvent] = []
        while not seen or not seen[-1].ends:
            async for event in jobs.follow(job.id, after=seen[-1].seq if seen else 0):
                seen.append(event)
                if len(seen) % 7 == 0:
                    break
        assert [event.seq for event in seen] == sorted({event.seq for event in seen})
        lasting = [event.kind for event in seen if event.kind in ("queued", "started", "succeeded")]
        assert lasting == ["queued", "started", "succeeded"]
        assert [event.kind async for event in jobs.follow(job.id, after=seen[-2].seq)] == ["succeeded"]
        assert [event async for event in jobs.follow(job.id, after=seen[-1].seq)] == []
        with pytest.raises(Unknown):
            async for _ in jobs.follow("nothing"):
                pass


@in_loop
async def test_events_are_json_for_browsers(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        job = await jobs.submit(FOX, "ann")
        rows = [json.loads(event.to_json()) async for event in jobs.follow(job.id)]
        assert all(row["job"] == job.id and row["seq"] < 2**53 for row in rows)
        previews = [row for row in rows if row["kind"] == "preview"]
        assert base64.b64decode(previews[0]["pictures"][0])[:2] == b"\xff\xd8"


@pytest.mark.long
@in_loop
async def test_who_waits_is_told_where_and_how_long(tmp_path: Path) -> None:
    engine = ToyEngine(step_seconds=0.01)
    async with ready(tmp_path, engine) as jobs:
        await jobs.wait((await jobs.submit(saying("a fox", 0), "ann")).id)
        engine.go.clear()
        some = [await jobs.submit(saying("a fox", seed, steps=400), "ann") for seed in range(1, 5)]
        await until_state(jobs, some[0].id, "running")
        last = jobs.follow(some[3].id)
        told = [await anext(last), await anext(last)][-1]
        assert told.kind == "position" and told.position == 2 and told.seconds_left and told.seconds_left >= 4
        assert (await jobs.get(some[3].id)).position == told.position
        engine.go.set()
        await until(lambda: jobs._line.in_hand[some[0].id].step > 5)
        now = await jobs.get(some[0].id)
        assert (now.stage, now.steps) == ("painting", 400) and now.seconds_left and now.seconds_left < 4
        await last.aclose()


@pytest.mark.long
@in_loop
async def test_jobs_are_found_again(tmp_path: Path) -> None:
    engine = ToyEngine(models=(toy_model("one"), toy_model("two")))
    async with ready(tmp_path, engine) as jobs:
        ids: list[str] = []
        for number in range(12):
            words = "Füchse im SCHNEE ÄÖ" if number % 3 == 0 else "雪地里的狐狸 100%_"
            width, model = 64 + 8 * (number % 2), ["one", "two"][number % 2]
            request = ImageRequest(prompt=words, seed=number, width=width, model=model)
            ids.append((await jobs.submit(request, "ann" if number < 8 else "bob")).id)
        for id in ids:
            await jobs.wait(id)

        async def found(query: JobQuery) -> list[int]:
            return [ids.index(job.id) for job in (await jobs.find(query)).items]

        assert await found(JobQuery()) == list(range(11, -1, -1))
        assert await found(JobQuery(owner="bob")) == [11, 10, 9, 8]
        assert await found(JobQuery(text="schnee äö")) == [9, 6, 3, 0]
        assert await found(JobQuery(text="狐狸 100%_", model="two")) == [11, 7, 5, 1]
        assert await found(JobQuery(text="100x_")) == []
        assert await found(JobQuery(seed=3)) == [3] and await found(JobQuery(width=72, seed=4)) == []
        assert await found(JobQuery(states=frozenset({"failed", "queued"}))) == []
        pages, after = [], None
        while True:
            page = await jobs.find(JobQuery(), after, 5)
            pages.append([ids.index(job.id) for job in page.items])
            if (after := page.next) is None:
                break
        assert pages == [[11, 10, 9, 8, 7], [6, 5, 4, 3, 2], [1, 0]]
        for wrong in ("x", "-1", "1" * 30, ""):
            with pytest.raises(ValueError, match="after is what an earlier page gave"):
                await jobs.find(JobQuery(), wrong)
        with pytest.raises(Unknown):
            await jobs.get(ids[0], owner="bob")
        with pytest.raises(Unknown):
            await jobs.cancel(ids[0], owner="bob")
        images = await jobs.find_images(ImageQuery(owner="ann", model="two", height=64))
        assert sorted(image.seed for image in images.items) == [1, 3, 5, 7]  # painted side by side, in any order
        assert [image.seed for image in (await jobs.find_images(ImageQuery(job=ids[2]))).items] == [2]


@in_loop
async def test_stars_boards_trash_and_undo(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        done = await jobs.wait((await jobs.submit(saying("a fox", num_images=2), "ann")).id)
        first, second = done.images
        assert (await jobs.mark(first, starred=True, board="best")).starred
        assert (await jobs.mark(first)).board == "best"
        assert await jobs.boards("ann") == {"best": 1} and await jobs.boards("bob") == {}
        assert [image.id for image in (await jobs.find_images(ImageQuery(starred=True))).items] == [first]
        assert (await jobs.mark(first, board=False)).board is None
        assert (await jobs.trash(first)).deleted
        assert [image.id for image in (await jobs.find_images(ImageQuery())).items] == [second]
        assert [image.id for image in (await jobs.find_images(ImageQuery(trashed=True))).items] == [first]
        assert await jobs.picture(first), "until it goes for good it can be looked at"
        assert (await jobs.restore(first)).deleted is None
        assert len((await jobs.find_images(ImageQuery())).items) == 2
        for act in (jobs.image, jobs.trash, jobs.restore, jobs.mark, jobs.picture, jobs.thumbnail, jobs.record):
            with pytest.raises(Unknown):
                await act(first, "bob")
            with pytest.raises(Unknown):
                await act("nothing-0")


@in_loop
async def test_a_record_paints_the_picture_again(tmp_path: Path) -> None:
    async with ready(tmp_path) as jobs:
        done = await jobs.wait((await jobs.submit(saying("a fox", num_images=2), "ann")).id)
        record = await jobs.record(done.images[1])
        assert (record.request, record.seed) == (done.request, 8)
        again = await jobs.wait((await jobs.submit(record.request, "ann")).id)
        assert await jobs.picture(again.images[1]) == await jobs.picture(done.images[1])
        assert [image.sha256 for image in (await jobs.find_images(ImageQuery(job=again.id))).items] == [
            image.sha256 for image in (await jobs.find_images(ImageQuery(job=done.id))).items
        ]


@in_loop
async def test_users_take_turns_and_people_go_first(tmp_path: Path) -> None:
    engine = ToyEngine()
    async with ready(tmp_path, engine) as jobs:
        block = await jobs.submit(saying("hang"), "ann")
        await until_state(jobs, block.id, "running")
        owners = {}
        for owner, priority in (("ann", 0), ("ann", 0), ("bob", 0), ("cat", 0), ("dog", 1)):
            job = await jobs.submit(FOX, owner, priority=priority)
            owners[job.id] = owner
        await jobs.cancel(block.id)
        for id in owners:
            await jobs.wait(id)
        assert [owners[id] for id, _ in engine.started[1:]] == ["dog", "bob", "cat", "ann", "ann"]


@pytest.mark.long
@in_loop
async def test_nothing_is_kept_in_memory_of_jobs_that_have_ended(tmp_path: Path) -> None:
    async with ready(tmp_path, ToyEngine(at_once=3)) as jobs:
        some = [
            await jobs.submit(saying(("a fox", "fail", "hang")[n % 3], n), f"user{n}", key=f"{n}") for n in range(30)
        ]
        followers = [asyncio.create_task(jobs.wait(job.id)) for job in some]
        for job in some[2::3]:
            await jobs.cancel(job.id)
        assert {(await follower).state for follower in followers} == {"succeeded", "failed", "cancelled"}
        line, hub = jobs._line, jobs._hub
        await until(lambda: not line.in_hand)
        assert not hub._channels and not line.rows and len(line.schedule) == 0
        assert not line.schedule._lines and not line.schedule._passed and not line.schedule._counts
        assert not jobs._admission._arriving and not jobs._storage.results._held and len(line._requests) == 0


@in_loop
async def test_a_model_that_may_yet_be_found_is_waited_for(tmp_path: Path) -> None:
    """An engine that has come up may still be reading a long row of folders: what they hold is not lost meanwhile."""
    toy, late = toy_model(), toy_model("late")
    engine = ToyEngine((toy, late))
    engine.go.clear()
    async with ready(tmp_path, engine) as jobs:
        first = await jobs.submit(FOX.model_copy(update={"model": "late"}), "ann")
    engine = ToyEngine((toy,), knows_all=False)
    async with ready(tmp_path, engine) as jobs:
        second = await jobs.submit(FOX, "ben")
        assert (await jobs.wait(second.id)).state == "succeeded"
        with pytest.raises(Unready, match="still being read"):
            await jobs.submit(FOX.model_copy(update={"model": "late"}), "ann")
        assert (await jobs.get(first.id)).state == "queued" and engine.started == [(second.id, 1)]
        engine.reports.put(Offered((toy, late)))
        assert (await jobs.wait(first.id)).state == "succeeded"
        with pytest.raises(UnknownModel):
            await jobs.submit(FOX.model_copy(update={"model": "nobody"}), "ann")


@in_loop
async def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, ToyEngine(()), SMALL)
    async with jobs.opened():
        await until(lambda: any("none of the models can be used" in reason for reason in jobs.health().reasons))
        assert not jobs.health().ready


class Slow:
    """A reader for whom something happens after the first look."""

    def __init__(self, journal: Path, meanwhile: Callable[[], None]) -> None:
        self.connection = sqlite3.connect(journal, check_same_thread=False)
        self.meanwhile, self.looks = meanwhile, 0

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        self.looks += 1
        if self.looks == 2:
            self.meanwhile()
        return self.connection.execute(sql, values).fetchall()

    def close(self) -> None:
        self.connection.close()


@pytest.mark.long
@in_loop
async def test_a_job_that_ends_while_it_is_read_has_ended(tmp_path: Path) -> None:
    engine = ToyEngine()
    engine.go.clear()
    async with ready(tmp_path, engine) as jobs:
        job = await jobs.submit(FOX, "ann")
        await until_state(jobs, job.id, "running")
        loop = asyncio.get_running_loop()

        def end() -> None:
            engine.go.set()
            asyncio.run_coroutine_threadsafe(until_state(jobs, job.id, "succeeded"), loop).result(30)

        read = partial(rows.events, Slow(tmp_path / "jobs.sqlite", end), job.id, None, 0)
        known, past = await asyncio.to_thread(read)
        assert past[-1].kind == "succeeded" and known.state == "succeeded"
        assert past[-1].images == known.images and known.images
