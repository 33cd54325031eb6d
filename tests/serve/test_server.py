"""A real process on a real socket: how it ends, whom it does not wait for, and what it never imports."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Process:
    """A server of its own."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def ask(self, method: str, path: str, value: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        body = None if value is None else json.dumps(value)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text

    def submit(self, prompt: str, **fields: object) -> str:
        status, job = self.ask("POST", "/api/v1/jobs", {"prompt": prompt, **fields})
        assert status == 202, job
        return job["id"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def until(self, path: str, field: str, *values: object) -> Any:
        """Looks until a field has one of these values."""
        for _ in range(1000):
            status, body = self.ask("GET", path)
            if status == 200 and body[field] in values:
                return body
            time.sleep(0.02)
        raise AssertionError(f"{path} never had {field} in {values}: {body}")


@contextmanager
def running(folder: Path, *arguments: str) -> Generator[Process]:
    command = [sys.executable, "-m", "tests.serve.toy_server", str(folder / "data"), *arguments]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        server = Process(process, int(cast(IO[str], process.stdout).readline()), folder / "log")
        for _ in range(1000):
            if server.ask("GET", "/readyz")[0] == 200:
                break
            time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait()
        cast(IO[str], process.stdout).close()


@pytest.mark.long
def test_told_to_end_it_finishes_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    with running(tmp_path, "0.05", "20") as server:
        jobs = [server.submit("a fox", steps=20) for _ in range(4)]
        waiting = [server.submit("an owl", steps=2) for _ in range(3)]
        server.until(f"/api/v1/jobs/{jobs[-1]}", "state", "running")
        assert server.stop() == 0
    with running(tmp_path) as again:
        for job in jobs:
            found = again.ask("GET", f"/api/v1/jobs/{job}")[1]
            assert (found["state"], found["attempt"]) == ("succeeded", 1)
        for job in waiting:
            assert again.until(f"/api/v1/jobs/{job}", "state", "succeeded")["attempt"] == 1
    assert "torch" not in (tmp_path / "log").read_text()


@pytest.mark.long
def test_what_does_not_end_in_time_is_parked_and_streams_end(tmp_path: Path) -> None:
    with running(tmp_path, "0.02", "0.5") as server:
        job = server.submit("hang")
        server.until(f"/api/v1/jobs/{job}", "state", "running")
        stream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        stream.request("GET", f"/api/v1/jobs/{job}/events")
        answer = stream.getresponse()
        assert server.stop(signal.SIGINT) == 0
        assert b"event: parked" in answer.read()
        stream.close()
    with running(tmp_path) as again:
        assert again.until(f"/api/v1/jobs/{job}", "state", "queued", "running")["attempt"] <= 2
        assert again.until(f"/api/v1/jobs/{job}", "state", "running")["crashes"] == 0


@pytest.mark.long
def test_while_it_ends_it_says_so_and_a_second_signal_parks_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "0.02", "600") as server:
        job = server.submit("hang")
        server.until(f"/api/v1/jobs/{job}", "state", "running")
        server.process.send_signal(signal.SIGTERM)
        server_ready = 200
        while server_ready == 200:
            server_ready = server.ask("GET", "/readyz")[0]
        assert server_ready == 503 and server.ask("POST", "/api/v1/jobs", {"prompt": "x"})[0] == 503
        assert server.ask("GET", f"/api/v1/jobs/{job}")[1]["state"] == "running"
        assert server.stop() == 0  # within 20 s of 600


@pytest.mark.long
def test_it_waits_for_nobodys_headers_or_body(tmp_path: Path) -> None:
    with running(tmp_path, "0.02", "1", "0.5") as server:
        beginnings = {
            "nothing": b"",
            "half a head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-",
            "half a second head": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /healthz HT",
            "half a body": b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{",
        }  # fmt: skip
        ends: dict[str, bytes] = {}
        for name, data in beginnings.items():
            with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
                connection.sendall(data)
                ends[name] = b"".join(iter(lambda c=connection: c.recv(65536), b""))
        assert ends["nothing"] == ends["half a head"] == b""
        assert ends["half a second head"].count(b"HTTP/1.1 200") == 1
        assert ends["half a body"].startswith(b"HTTP/1.1 408") and b"body_slow" in ends["half a body"]
        dripping = socket.create_connection(("127.0.0.1", server.port), 20)
        with dripping, pytest.raises(OSError):
            for _ in range(400):
                dripping.sendall(b"G")
                time.sleep(0.02)
        assert server.ask("GET", "/healthz") == (200, b"ok\n")


HEAD = b"Host: 127.0.0.1\r\n"
POST = b"POST /api/v1/jobs HTTP/1.1\r\n" + HEAD
HARDLY = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\n" + HEAD + b"\r\n",
    "long head": b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "proxy": b"GET http://evil.example/ HTTP/1.1\r\n" + HEAD + b"\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "huge": POST + b"Content-Type: application/json\r\nContent-Length: 999999999\r\n\r\n",
}


@pytest.mark.long
@pytest.mark.parametrize("data", HARDLY.values(), ids=HARDLY.keys())
def test_what_is_hardly_http_is_refused(one_server: Process, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", one_server.port), 20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4", answer[:200]
    assert one_server.ask("GET", "/healthz") == (200, b"ok\n")


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Process]:
    with running(tmp_path_factory.mktemp("one"), "0.01", "1", "2") as server:
        yield server
