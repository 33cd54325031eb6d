"""The journal's engine room: one wait for all, second attempts, and what it refuses to open."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from marmo.serve.disk import Database, LocalDisk
from marmo.serve.job import KeyConflict
from marmo.serve.journal import ATTEMPTS, Journal, JournalError
from tests.serve.faulty_disk import At, Moment, WatchedDisk, input_output_error, no_space


def journal_in(folder: Path, disk: LocalDisk | None = None) -> Journal:
    journal = Journal(folder / "jobs.sqlite", disk or LocalDisk(), lambda: None)
    journal.open()
    return journal


def set_fact(name: str, value: str = "1") -> Callable[[Database], object]:
    return lambda database: database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def facts(database: Database) -> dict[str, str]:
    return {str(name): str(value) for name, value in database.execute("SELECT name, value FROM facts")}


def test_writes_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    journal = journal_in(tmp_path, WatchedDisk(lambda name, moment: counts.update([name])))
    gate, entered = threading.Event(), threading.Event()
    first = journal.write(lambda database: (entered.set(), gate.wait(5)))
    entered.wait(5)
    before = counts["COMMIT"]
    rest: list[Future[object]] = [journal.write(set_fact(f"f{n}")) for n in range(200)]
    gate.set()
    for future in (first, *rest):
        future.result(5)
    assert counts["COMMIT"] - before == 2 * 2, "each counts before and after: one for the first, one for all others"
    assert len(journal.read(facts).result(5)) == 200
    journal.close()


def test_a_refused_write_harms_no_other(tmp_path: Path) -> None:
    def refuse(database: Database) -> None:
        set_fact("half")(database)
        raise KeyConflict("x")

    journal, gate = journal_in(tmp_path), threading.Event()
    journal.write(lambda database: gate.wait(5))
    good, refused, bad = journal.write(set_fact("good")), journal.write(refuse), journal.write(lambda d: d.execute("?"))
    gate.set()
    good.result(5)
    with pytest.raises(KeyConflict):
        refused.result(5)
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        bad.result(5)
    assert facts_of(journal) == {"good"}


def facts_of(journal: Journal) -> set[str]:
    names = set(journal.read(facts).result(5))
    journal.close()
    return names


@pytest.mark.long
@pytest.mark.parametrize(("moment", "act"), [("before", input_output_error), ("after", no_space)])
def test_one_error_at_any_statement_is_got_over(tmp_path: Path, moment: Moment, act: Callable[[str], None]) -> None:
    number, name = 0, ""
    while name is not None:
        folder = tmp_path / str(number)
        folder.mkdir()
        fault = At(number, moment, act)
        journal = journal_in(folder, WatchedDisk(fault))
        journal.write(set_fact("here")).result(5)
        assert facts_of(journal) == {"here"}
        number, name = number + 1, fault.name
    assert number > 20


def test_an_error_that_stays_is_told(tmp_path: Path) -> None:
    broken = threading.Event()

    def watch(name: str, moment: Moment) -> None:
        if broken.is_set() and name == "COMMIT" and moment == "before":
            no_space(name)

    freed: list[int] = []
    journal = Journal(tmp_path / "jobs.sqlite", WatchedDisk(watch), lambda: freed.append(1))
    journal.open()
    broken.set()
    with pytest.raises(JournalError) as caught:
        journal.write(set_fact("lost")).result(5)
    assert caught.value.is_full and len(freed) == ATTEMPTS - 1
    broken.clear()
    journal.write(set_fact("kept")).result(5)
    assert facts_of(journal) == {"kept"}


def test_a_real_full_database_is_known_as_such(tmp_path: Path) -> None:
    """SQLite's own words for it, brought about by its own limit."""
    journal = journal_in(tmp_path)

    def fill(database: Database) -> None:
        database.execute("PRAGMA max_page_count = 30")
        for number in range(1000):
            set_fact(f"{number}", "x" * 4000)(database)

    with pytest.raises(JournalError) as caught:
        journal.write(fill).result(5)
    assert caught.value.is_full
    assert facts_of(journal) == set()


def test_a_clean_end_is_remembered(tmp_path: Path) -> None:
    def opened() -> tuple[bool, Journal]:
        journal = Journal(tmp_path / "jobs.sqlite", LocalDisk(), lambda: None)
        return journal.open(), journal

    was_clean, first = opened()
    assert was_clean
    was_clean, second = opened()
    assert not was_clean
    second.close()
    was_clean, third = opened()
    assert was_clean
    third.close()
    first.close()


def test_a_damaged_or_newer_journal_is_refused(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    for future in [journal.write(set_fact(f"{number}", "x" * 300)) for number in range(300)]:
        future.result(5)
    journal.close()
    path = tmp_path / "jobs.sqlite"
    good = path.read_bytes()
    path.write_bytes(good[:100] + b"\xff" * 5000 + good[5100:])
    with pytest.raises(ValueError, match="the journal is damaged"):
        journal_in(tmp_path)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match="the journal is damaged"):
        journal_in(tmp_path)
    path.write_bytes(good)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ValueError, match="from a newer Marmo"):
        journal_in(tmp_path)
