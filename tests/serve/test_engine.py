"""The engine: a worker process that may die, hang or run out of memory, and a server that does not notice."""

import os
import queue
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.machine import memory
from marmo.request import Defaults, ImageRequest
from marmo.serve.contract import Died, Failed, Finished, Ready, Report, Staged, Stepped, Stopped, Task
from marmo.serve.engine import LocalEngine
from marmo.serve.messages import Setup
from marmo.serve.pace import USUAL, Patience

pytestmark = pytest.mark.long

LONG = 240
"""Seconds; a test that waits so long has failed."""


def setup(path: Path) -> Setup:
    return Setup(models=(("toy", str(path)),), device="cpu", dtype="float32", threads=1)


@contextmanager
def up(wanted: Setup, patience: Patience = USUAL) -> Iterator[LocalEngine]:
    engine = LocalEngine(wanted, patience)
    engine.start()
    try:
        until(engine, Ready)
        yield engine
    finally:
        engine.close(0)
        assert engine.wait(LONG)


@pytest.fixture(scope="module")
def engine(stand_in: Path) -> Iterator[LocalEngine]:
    with up(setup(stand_in)) as engine:
        yield engine


def until(engine: LocalEngine, *kinds: type, job: str | None = None) -> Report:
    """The next report of a kind, and of a job."""
    return collect(engine, *kinds, job=job)[-1]


def collect(engine: LocalEngine, *kinds: type, job: str | None = None) -> list[Report]:
    """All reports up to the next one of a kind, and of a job."""
    told = list[Report]()
    while True:
        told.append(engine.reports.get(timeout=LONG))
        if isinstance(told[-1], kinds) and (job is None or getattr(told[-1], "job", None) == job):
            return told


def task(job: str, attempt: int = 1, **fields: object) -> Task:
    small = {"model": "toy", "prompt": "a red fox", "width": 64, "height": 48, "steps": 3, "seed": 7}
    request = ImageRequest(**{**small, **fields}).resolve(Defaults())
    return Task(job=job, attempt=attempt, request=request)


ENDLESS = {"steps": 1000}
ENDS = (Finished, Failed, Stopped, Died)


def quiet(engine: LocalEngine) -> bool:
    """Whether nothing more is told."""
    try:
        return not isinstance(engine.reports.get(timeout=0.3), ENDS)
    except queue.Empty:
        return True


def test_a_task_is_painted(engine: LocalEngine):
    engine.submit(task("painted"))
    told = collect(engine, *ENDS)
    assert [type(report) for report in told] == [Staged] * 2 + [Stepped] * 3 + [Staged, Finished]
    assert told[-1].pictures[0].startswith(b"\x89PNG")


def test_pictures_in_a_request_travel(engine: LocalEngine):
    engine.submit(task("first"))
    first = until(engine, Finished)
    engine.submit(task("second", init_image=first.pictures[0], strength=0.5))
    assert until(engine, *ENDS).pictures != first.pictures


def test_cancelling_takes_one_step(engine: LocalEngine):
    """Also amid a batch, whose other tasks go on."""
    engine.submit(task("cancelled", **ENDLESS))
    engine.submit(task("mate", steps=30))
    until(engine, Stepped, job="cancelled")
    engine.cancel("cancelled")
    told = collect(engine, Stopped)
    assert told[-1] == Stopped("cancelled", 1, cancelled=True)
    assert sum(isinstance(report, Stepped) and report.job == "cancelled" for report in told) <= 4
    assert until(engine, Finished, Failed, Stopped).job == "mate"


def test_cancelling_what_does_not_run(engine: LocalEngine):
    engine.cancel("nobody")
    engine.submit(task("job"))
    assert isinstance(until(engine, *ENDS), Finished)
    engine.cancel("job")
    assert quiet(engine)


def test_a_bad_request_fails_and_the_worker_lives(engine: LocalEngine):
    pid = engine.pid
    engine.submit(task("bad", init_image=b"no picture", strength=0.5))
    assert until(engine, *ENDS).code == "request"
    engine.submit(task("good"))
    assert isinstance(until(engine, *ENDS), Finished) and engine.pid == pid


def test_room_is_for_what_fits(engine: LocalEngine):
    """Of a size that no other test measures: whether more than two of them gain anything depends on the machine."""
    small, large = task("a", width=72).request, task("b", width=128).request
    assert engine.room(small, []) and not engine.room(small, [small])
    engine.submit(task("measured", width=72, steps=4))
    until(engine, Finished)
    assert engine.room(small, [small]) and not engine.room(large, [small])


def test_a_killed_worker_takes_down_its_attempts_alone(engine: LocalEngine):
    engine.submit(task("a", **ENDLESS))
    engine.submit(task("b", **ENDLESS))
    until(engine, Stepped, job="b")
    os.kill(engine.pid, signal.SIGKILL)
    died = until(engine, Died)
    assert set(died.attempts) == {("a", 1), ("b", 1)} and "SIGKILL" in died.reason
    assert not engine.room(task("a").request, [])
    engine.submit(task("a", attempt=2))  # waits for the next worker
    assert len(until(engine, Ready).models) == 1
    told = collect(engine, *ENDS)
    assert isinstance(told[-1], Finished) and all((report.job, report.attempt) == ("a", 2) for report in told)


def test_a_worker_that_hangs_is_killed(stand_in: Path):
    with up(setup(stand_in), Patience(factor=10, floor=1.5, first=LONG)) as engine:
        engine.submit(task("hangs", steps=300))
        for _ in range(3):
            until(engine, Stepped)
        os.kill(engine.pid, signal.SIGSTOP)
        died = until(engine, Died)
        assert died.attempts == (("hangs", 1),) and "no progress" in died.reason
        engine.submit(task("cancelled"))
        engine.cancel("cancelled")
        assert until(engine, Stopped) == Stopped("cancelled", 1, cancelled=True)


def test_a_model_whose_file_is_cut_off_ends_in_a_failure(tmp_path: Path):
    """While it is mapped that kills the worker; the next one sees what is the matter."""
    from torch import float32

    from benchmarks.checkpoint import random_checkpoint

    path = random_checkpoint(tmp_path / "model.safetensors", dtype=float32)
    with up(setup(path)) as engine:
        engine.submit(task("job", **ENDLESS))
        until(engine, Stepped)
        os.truncate(path, 100_000)
        assert until(engine, Died).attempts == (("job", 1),)
        engine.submit(task("job", attempt=2))
        failed = until(engine, Failed)
        assert (failed.job, failed.attempt, failed.code) == ("job", 2, "model")
        assert "toy" in failed.message and str(tmp_path) not in failed.message


def test_a_worker_with_little_memory(engine: LocalEngine):
    """A true limit of the system, not an injected error.  Too large is beyond what an allocator may have reserved."""
    assert engine.pid is not None
    pid = engine.pid
    engine.submit(task("small"))
    until(engine, Finished)
    with limited(pid, memory("VmSize", pid) + (30 << 20)):
        engine.submit(task("too large", width=512, height=512, steps=1))
        engine.submit(task("mate", steps=8))
        ends = [until(engine, *ENDS), until(engine, *ENDS)]
    assert {end.job: getattr(end, "code", None) for end in ends} == {"too large": "memory", "mate": None}
    engine.submit(task("too large before", width=512, height=512, steps=1))
    assert isinstance(until(engine, *ENDS), Finished) and engine.pid == pid


@contextmanager
def limited(pid: int, most: int) -> Iterator[None]:
    """A process may take so many bytes in all."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_AS, before)


def test_a_worker_that_cannot_start_takes_nothing_down(stand_in: Path, capfd):
    """No attempt is lost with it: the task has not been handed over."""
    engine = LocalEngine(Setup(models=(("toy", str(stand_in)),), device="abacus"))
    engine.start()
    engine.submit(task("waits"))
    assert until(engine, *ENDS) == Died((), "the worker ended with status 1")
    assert "device 'abacus' cannot be used here" in capfd.readouterr().err
    engine.close(0)
    assert until(engine, Stopped) == Stopped("waits", 1, cancelled=False) and engine.wait(LONG)


def test_closing_hands_back_what_does_not_finish(stand_in: Path):
    engine = LocalEngine(setup(stand_in))
    engine.start()
    engine.submit(task("runs", **ENDLESS))
    until(engine, Stepped)
    engine.close(0.2)
    assert until(engine, *ENDS) == Stopped("runs", 1, cancelled=False)
    engine.submit(task("late"))
    assert engine.wait(LONG) and engine.pid is None


def test_closing_before_the_worker_is_up(stand_in: Path):
    engine = LocalEngine(setup(stand_in))
    engine.start()
    engine.submit(task("waits"))
    engine.close(60)
    assert until(engine, *ENDS) == Stopped("waits", 1, cancelled=False)
    assert engine.wait(LONG)


def test_a_worker_ends_with_its_server(stand_in: Path):
    """Also when the server had no time to say so."""
    program = (
        "import sys, time; from marmo.serve.engine import LocalEngine; from marmo.serve.messages import Setup\n"
        f"engine = LocalEngine(Setup(models=(('toy', {str(stand_in)!r}),), device='cpu'))\n"
        "engine.start(); engine.reports.get(); print(engine.pid, flush=True); time.sleep(600)"
    )
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    worker = int(server.stdout.readline())
    server.kill()
    server.wait()
    deadline = time.monotonic() + LONG
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_server_imports_no_torch():
    code = "import sys, marmo.serve.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
