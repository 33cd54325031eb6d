"""`marmo serve`: what it refuses to start with, and one run from the command to the picture."""

import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, cast

import pytest

from marmo.cli.main import main
from marmo.cli.serve import address, data_folder, name_models


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence of a command that must not start."""
    with pytest.raises(SystemExit) as caught:
        main(["serve", *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "marmo.example"])
def test_off_loopback_it_needs_tokens(stand_in: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    assert "--token-file" in refused(capsys, "--model", str(stand_in), "--host", host)


def test_what_it_cannot_start_with_is_said(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ana generate short")
    tokens.chmod(0o600)
    model = ("--model", str(stand_in), "--data", str(tmp_path / "data"))
    assert "no model at" in refused(capsys, "--model", str(tmp_path / "none.safetensors"))
    assert "at least 20" in refused(capsys, *model, "--token-file", str(tokens))
    assert "no name of a host" in refused(capsys, *model, "--allow-host", "https://marmo.example")
    assert "no origin" in refused(capsys, *model, "--allow-origin", "marmo.example")
    assert "--port is 0 to 65535" in refused(capsys, *model, "--port", "99999")


def test_a_new_token_file_is_told_once(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = tmp_path / "tokens"
    arguments = [
        "--model",
        str(stand_in),
        "--token-file",
        str(tokens),
        "--port",
        "99999",
        "--data",
        str(tmp_path / "d"),
    ]
    for times in (1, 0):
        with pytest.raises(SystemExit):
            main(["serve", *arguments])
        token = tokens.read_text().split()[-1]
        assert capsys.readouterr().out.count(token) == times
    assert tokens.stat().st_mode & 0o777 == 0o600


def test_models_are_named_by_their_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "v1 5.safetensors", tmp_path / "b" / "v1 5.safetensors", tmp_path / "狐狸.ckpt"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert name_models(paths) == {"v1-5": paths[0], "v1-5-2": paths[1], "model": paths[2]}
    assert name_models([tmp_path / "a"]) == {"a": tmp_path / "a"}


def test_where_it_is_and_where_it_keeps_things(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address("0.0.0.0", 80) == "http://127.0.0.1:80/" and address("::1", 80) == "http://[::1]:80/"
    monkeypatch.setenv("XDG_DATA_HOME", "/there")
    assert data_folder() == Path("/there/marmo")


@pytest.mark.long
def test_from_the_command_to_the_picture(stand_in: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(stand_in), "--port", "0", "--data", str(tmp_path / "data"), "--device", "cpu"]
    arguments += ["--no-upscalers"]  # with them: tests/serve/dialects/test_real_worker.py
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(tmp_path / "log").open("w"), text=True)
    try:
        port = int(cast(IO[str], process.stdout).readline().split(":")[3].split("/")[0])
        while ask(port, "GET", "/readyz")[0] != 200:
            time.sleep(0.1)
        models = json.loads(ask(port, "GET", "/api/v1/models")[1])["items"]
        assert [model["id"] for model in models] == [stand_in.stem]
        body = {"prompt": "a fox", "steps": 2, "width": 64, "height": 64, "seed": 7}
        job = json.loads(ask(port, "POST", "/api/v1/jobs", body)[1])
        stream = ask(port, "GET", f"/api/v1/jobs/{job['id']}/events")[1].decode()
        assert stream.count("event: step") == 2 and "event: succeeded" in stream
        picture = ask(port, "GET", f"/api/v1/images/{job['id']}-0/file")[1]
        assert picture.startswith(b"\x89PNG") and b"a fox" in picture
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and cast(IO[str], process.stdout).read().split()[-1] == "lean"
    finally:
        process.kill()
        process.wait()
        cast(IO[str], process.stdout).close()


PROGRAM = """
import sys
from marmo.cli.main import main

if __name__ == "__main__":
    try:
        main(["serve", *sys.argv[1:]])
    finally:
        print("fat" if "torch" in sys.modules else "lean")
"""


def ask(port: int, method: str, path: str, value: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = None if value is None else json.dumps(value)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data
