"""SIGKILL, again and again: a server under load whose processes are killed at random moments loses nothing.

    python -m benchmarks.kills [KILLS] [SEED]

`marmo serve --invariant` with the untrained stand-in, four clients that submit and try again what was not
acknowledged, and every few moments kill -9 for the server or for its worker, also while they come up.  At the end:

- every acknowledged job is there, once, and is painted (or quarantined, if three kills of the worker met it),
- every picture has the bytes that a server without kills paints,
- the journal is whole, every file is what its name says, and nothing is left over.

Exits with 1 and says what is wrong where that does not hold.  Needs Linux: it finds the worker in /proc.
"""

import hashlib
import http.client
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from benchmarks.checkpoint import random_checkpoint
from benchmarks.machine import describe

CLIENTS = 4
AHEAD = 6
"""Jobs that a client has waiting before it stops to submit."""
VARIANTS = [
    {
        "prompt": f"a red fox number {seed}",
        "seed": seed,
        "width": side,
        "height": 64,
        "steps": steps,
        "num_images": number,
    }
    for seed, (side, steps, number) in enumerate([(64, 4, 1), (64, 12, 1), (96, 6, 2), (64, 25, 1), (96, 8, 1)])
]
"""Requests; jobs take them in turn."""

PATIENCE = 180.0
"""Seconds for a server or a job; beyond, it counts as lost."""


Figures = Mapping[str, float]


class Lost(Exception):
    """A promise that was not kept."""


@dataclass
class Server:
    """One that is started again and again in the same folder."""

    command: Sequence[str]
    """Prints a line with its port when it listens."""
    data: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None
    starts: int = 0

    def start(self) -> None:
        """Begin to come up."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.starts += 1
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            raise Lost(f"the server does not start: status {self.process.wait()}")
        self.port = int(re.findall(r"\d{4,5}", line)[-1])

    def ask(self, method: str, path: str, value: object = None, key: str = "") -> tuple[int, Any]:
        """Status and body; status 0 where no answer comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key} if value is not None else {}
        try:
            connection.request(method, path, json.dumps(value) if value is not None else None, headers)
            answer = connection.getresponse()
            body = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(body) if is_json else body
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def until_ready(self) -> None:
        until = time.monotonic() + PATIENCE
        while self.ask("GET", "/readyz")[0] != 200:
            if time.monotonic() > until:
                raise Lost("the server does not become ready")
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Processes that the server has started."""
        assert self.process is not None
        try:
            tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
            return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        except OSError:
            return []

    def kill(self, whom: str) -> bool:
        """Whether there was somebody to kill; a server is started again."""
        assert self.process is not None
        if whom == "worker":
            workers = self.workers()
            for worker in workers:
                _kill(worker)
            return bool(workers)
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        cast(IO[str], self.process.stdout).close()
        self.start()
        _until_gone(workers)
        return True

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(60)
        cast(IO[str], self.process.stdout).close()
        return status


@dataclass
class Clients:
    """What was acknowledged, and to whom it is asked again."""

    server: Server
    acknowledged: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Key -> job and variant."""
    statuses: Counter[int] = field(default_factory=Counter[int])
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        """One client: keeps a few jobs waiting; asks again with the same key until it is told yes."""
        count = 0
        while not self.is_over.is_set():
            key, variant = f"{number}-{count}", (number + count) % len(VARIANTS)
            while True:
                status, job = self.server.ask("POST", "/api/v1/jobs", VARIANTS[variant], key)
                self.statuses[status] += 1
                if status == 202:
                    self.acknowledged[key] = job["id"], variant
                    break
                if self.is_over.is_set():
                    return
                time.sleep(0.05)
            count += 1
            while (job.get("position") or 0) > CLIENTS * AHEAD and not self.is_over.is_set():
                time.sleep(0.2)
                job = self.server.ask("GET", f"/api/v1/jobs/{job['id']}")[1] or job


def marmo_serve(model: Path, data: Path) -> Server:
    """The real one, on the CPU."""
    command = ("-m", "marmo", "serve", "--invariant", "--device", "cpu", "--quiet", "--drain", "0", "--port", "0")
    return Server((sys.executable, *command, "--model", str(model), "--data", str(data)), data)


def campaign(make: Callable[[Path], Server], folder: Path, kills: int, seed: int, whom: Sequence[str]) -> Figures:
    """Kill `whom` at random; raises `Lost`.

    Args:
        make: a server in a folder that is empty or was another one's.
        whom: of "server" and "worker".
    """
    dice, began = random.Random(seed), time.monotonic()
    expected = _undisturbed(make(folder / "undisturbed"))
    server = make(folder / "data")
    server.start()
    clients = Clients(server)
    threads = [threading.Thread(target=clients.run, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    killed = Counter[str]()
    while killed.total() < kills:
        if dice.random() < 0.75:
            server.until_ready()
        time.sleep(dice.uniform(0, 1.5))
        victim = dice.choice(whom)
        killed[victim] += server.kill(victim)
    clients.is_over.set()
    for thread in threads:
        thread.join(60)
    server.until_ready()
    states = _check_jobs(server, clients, expected)
    if server.stop() != 0:
        raise Lost("SIGTERM did not end the server with 0")
    _check_disk(server.data)
    return {
        "kills of the server": killed["server"], "kills of the worker": killed["worker"],
        "jobs acknowledged": len(clients.acknowledged), "succeeded": states["succeeded"],
        "quarantined": states["quarantined"], "begun again": states["again"],
        "answers that never came": clients.statuses[0], "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def _undisturbed(undisturbed: Server) -> list[list[str]]:
    """The hashes of each variant's pictures, from a server that nobody kills."""
    with _running(undisturbed) as server:
        jobs = [server.ask("POST", "/api/v1/jobs", variant, f"{n}")[1]["id"] for n, variant in enumerate(VARIANTS)]
        return [_pictures(server, _ended(server, job)) for job in jobs]


@contextmanager
def _running(server: Server) -> Generator[Server]:
    server.start()
    try:
        server.until_ready()
        yield server
    finally:
        server.stop()


def _check_jobs(server: Server, clients: Clients, expected: list[list[str]]) -> Counter[str]:
    """Every acknowledged job, and none twice."""
    states, ids = Counter[str](), [id for id, _ in clients.acknowledged.values()]
    if len(set(ids)) < len(ids):
        raise Lost("two keys have one job")
    for id, variant in clients.acknowledged.values():
        job = _ended(server, id)
        states[job["state"]] += 1
        states["again"] += job["attempt"] > 1
        if job["state"] == "succeeded":
            if _pictures(server, job) != expected[variant]:
                raise Lost(f"job {id} has other pictures than without kills")
        elif job["state"] != "quarantined" or job["crashes"] != 3:
            raise Lost(f"job {id} is {job['state']}: {job['message']}")
    found, after = 0, ""
    while True:
        _, page = server.ask("GET", f"/api/v1/jobs?limit=200{after}")
        found += len(page["items"])
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    if not len(ids) <= found <= len(ids) + CLIENTS:  # what a client was never told about may be there
        raise Lost(f"{found} jobs in the journal and {len(ids)} acknowledged")
    return states


def _ended(server: Server, job: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        status, found = server.ask("GET", f"/api/v1/jobs/{job}")
        if status == 404:
            raise Lost(f"job {job} is gone")
        if status == 200 and found["state"] not in ("queued", "running"):
            return found
        time.sleep(0.05)
    raise Lost(f"job {job} does not end")


def _pictures(server: Server, job: dict[str, Any]) -> list[str]:
    """The hashes of the files as a client gets them."""
    files = [server.ask("GET", f"/api/v1/images/{image}/file") for image in job["images"]]
    if any(status != 200 for status, _ in files):
        raise Lost(f"a picture of job {job['id']} cannot be fetched: {[status for status, _ in files]}")
    return [hashlib.sha256(data).hexdigest() for _, data in files]


def _check_disk(data: Path) -> None:
    with closing(sqlite3.connect(data / "jobs.sqlite")) as database:
        whole = database.execute("PRAGMA integrity_check").fetchall()
        named = {row[0] for row in database.execute("SELECT sha256 FROM images UNION SELECT sha256 FROM inputs")}
    files = {path.name: path for path in (data / "files").rglob("*") if path.is_file()}
    if whole != [("ok",)]:
        raise Lost(f"the journal is damaged: {whole}")
    if files.keys() != named:
        raise Lost(f"files without rows, or rows without files: {sorted(files.keys() ^ named)[:5]}")
    for name, path in files.items():
        if hashlib.sha256(path.read_bytes()).hexdigest() != name:
            raise Lost(f"{path} is not what its name says")


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _until_gone(processes: list[int]) -> None:
    """A worker whose server was killed ends by itself."""
    until = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{process}").exists() for process in processes):
        if time.monotonic() > until:
            raise Lost("a worker lives on without its server")
        time.sleep(0.05)


def main() -> None:
    """Run it and print the figures."""
    kills, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(describe())
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = random_checkpoint(folder / "stand-in.safetensors")
        try:
            figures = campaign(partial(marmo_serve, model), folder, kills, seed, ["server", "worker"])
        except Lost as lost:
            sys.exit(f"seed {seed}: {lost}")
    for title, value in figures.items():
        print(f"{title:26} {value:6.0f}")


if __name__ == "__main__":
    main()
