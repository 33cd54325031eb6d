"""Copies of the journal: one a day, whole or not there, and what a server makes of one that is put back."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from marmo.serve import backups
from marmo.serve.backups import Backups, NoRoom, Plan
from marmo.serve.disk import LocalDisk
from marmo.serve.jobs import Jobs
from marmo.serve.journal import Journal
from tests.serve.faulty_disk import At, Moment, WatchedDisk, input_output_error, kill_me, no_space
from tests.serve.queues import FOX, SMALL, in_loop, ready, saying, until, until_state
from tests.serve.toy_engine import ToyEngine

DAY = 86_400.0
NOW = 1_790_000_000.0  # 2026-09-21, 14:13 UTC


@asynccontextmanager
async def copying(folder: Path, plan: Plan, engine: ToyEngine | None = None):
    jobs = Jobs(folder, engine or ToyEngine(), SMALL, copies=plan)
    async with jobs.opened():
        await until(lambda: jobs.health().ready)
        yield jobs


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """A journal with something in it, of a server that is at work."""
    journal = Journal(tmp_path / "jobs.sqlite", LocalDisk(), lambda: None)
    journal.open()
    journal.write(lambda database: database.execute("INSERT INTO facts VALUES ('number', '7')")).result(5)
    yield tmp_path / "jobs.sqlite"
    journal.close()


def check(folder: Path) -> None:
    """Whatever is called a copy is whole."""
    for path in folder.glob("jobs-*"):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            facts = dict(database.execute("SELECT * FROM facts"))
        assert facts["number"] == "7" and "clean" not in facts and facts[backups.COPIED].isdecimal()


def test_a_copy_a_day_and_the_newest_are_kept(journal: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    copies = Backups(journal, Plan(folder, keep=2), LocalDisk())
    assert [copies.make(NOW + hours * 3600) for hours in (0, 1, 9, 10, 34, 58)] == [
        True, False, False, True, True, True,
    ]  # fmt: skip
    assert names(folder) == ["jobs-2026-09-23.sqlite", "jobs-2026-09-24.sqlite"]
    check(folder)


def test_a_clock_that_was_set_back_costs_no_fresh_copy(journal: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    for keep, now in ((1, NOW), (1, NOW - 900 * DAY)):
        Backups(journal, Plan(folder, keep), LocalDisk()).make(now)
    assert names(folder) == ["jobs-2024-04-04.sqlite"]


@pytest.mark.long
@pytest.mark.parametrize(("moment", "act"), [("before", input_output_error), ("after", no_space)])
def test_an_error_at_every_operation(journal: Path, tmp_path: Path, moment: Moment, act: Callable[[str], None]) -> None:
    """The next try makes what the first did not, and no half of it is ever called a copy."""
    old, number, name = tmp_path / "old", 0, ""
    for now in (NOW - 2 * DAY, NOW - DAY):
        Backups(journal, Plan(old), LocalDisk()).make(now)
    while name is not None:
        folder, fault = tmp_path / f"{number}", At(number, moment, act)
        shutil.copytree(old, folder)
        with suppress(OSError, sqlite3.Error):
            Backups(journal, Plan(folder, keep=2), WatchedDisk(fault)).make(NOW)
        check(folder)
        assert len(list(folder.glob("jobs-*"))) >= 2, "the old ones go after the new one is there"
        Backups(journal, Plan(folder, keep=2), LocalDisk()).make(NOW)
        left = names(folder)
        assert left[-1] == "jobs-2026-09-21.sqlite" and all(name.startswith("jobs-") for name in left)
        number, name = number + 1, fault.name
    assert number > 15


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_every_operation(journal: Path, tmp_path: Path) -> None:
    number, killed = 0, True
    while killed:
        folder, disk = tmp_path / f"{number}", WatchedDisk(At(number, "after", kill_me))
        child = os.fork()
        if child == 0:
            Backups(journal, Plan(folder), disk).make(NOW)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == 9
        if folder.exists():
            check(folder)
        Backups(journal, Plan(folder), LocalDisk()).make(NOW)
        assert names(folder) == ["jobs-2026-09-21.sqlite"]
        number += 1
    assert number > 10


def test_without_room_there_is_no_copy(journal: Path, tmp_path: Path) -> None:
    disk = LocalDisk()
    disk.free = lambda folder: backups.MARGIN
    with pytest.raises(NoRoom):
        Backups(journal, Plan(tmp_path / "copies"), disk).make(NOW)
    assert names(tmp_path / "copies") == []


@pytest.mark.long
@in_loop
async def test_a_server_copies_when_it_starts_and_says_so(tmp_path: Path) -> None:
    async with copying(tmp_path / "data", Plan(tmp_path / "copies")) as jobs:
        await until(lambda: jobs.metrics()["journal_copies_total"] == 1)
        assert len(names(tmp_path / "copies")) == 1
    (tmp_path / "blocked").write_text("no folder")
    async with copying(tmp_path / "data", Plan(tmp_path / "blocked")) as jobs:
        await until(lambda: jobs.metrics()["journal_copies_failed_total"] == 1)
        assert jobs.health().ready and (await jobs.wait((await jobs.submit(FOX, "ann")).id)).state == "succeeded"


@pytest.mark.long
@in_loop
async def test_a_copy_that_is_put_back_is_the_queue_and_the_gallery_of_that_day(tmp_path: Path) -> None:
    """As docs/reliability.md says it is done.  Pictures that were painted later lose their rows, not their files."""
    data, plan = tmp_path / "data", Plan(tmp_path / "copies")
    async with ready(data) as jobs:
        early = await jobs.wait((await jobs.submit(FOX, "ann")).id)
        running = await jobs.submit(saying("hang"), "ann")
        waiting = await jobs.submit(saying("a wolf"), "ann")
        await until_state(jobs, running.id, "running")
        assert Backups(data / "jobs.sqlite", plan, LocalDisk()).make(NOW)
        await jobs.cancel(running.id)
        await jobs.wait(waiting.id)
        late = await jobs.wait((await jobs.submit(saying("a bear"), "ann")).id)
        late_file = await jobs.picture(late.images[0])
    for path in data.glob("jobs.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "copies" / "jobs-2026-09-21.sqlite", data / "jobs.sqlite")
    async with ready(data, ToyEngine(at_once=2)) as jobs:
        assert await jobs.picture((await jobs.get(early.id)).images[0])
        await until_state(jobs, running.id, "running")
        assert ((await jobs.get(running.id)).attempt, (await jobs.get(running.id)).crashes) == (2, 0)
        assert (await jobs.wait(waiting.id)).state == "succeeded"
        await until(lambda: (data / "unnamed").exists() and len(names(data / "unnamed")) >= 1)
    aside = [path.read_bytes() for path in (data / "unnamed").glob("*.png")]
    assert late_file in aside
    async with ready(data) as jobs:  # from now on it is a journal like others, and orphans are orphans
        await jobs._storage.sweep()
        assert late_file in [path.read_bytes() for path in (data / "unnamed").glob("*.png")]
        assert not await jobs._storage.read(backups.is_copy)
