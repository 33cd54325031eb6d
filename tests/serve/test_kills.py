"""SIGKILL at random moments, with the campaign of `benchmarks/kills.py`: ten here, a hundred in `make full`."""

import sys
from pathlib import Path

import pytest

from benchmarks.kills import Server, campaign, marmo_serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the campaign looks for workers in /proc")


def toy_server(data: Path) -> Server:
    return Server((sys.executable, "-m", "tests.serve.toy_server", str(data), "0.01", "0"), data)


@pytest.mark.long
def test_ten_kills_of_a_server_lose_nothing(tmp_path: Path) -> None:
    figures = campaign(toy_server, tmp_path, 10, 0, ["server"])
    assert figures["kills of the server"] == 10 and figures["jobs acknowledged"] > 20
    assert figures["quarantined"] == 0, "no worker died that the server outlived"


@pytest.mark.long
def test_ten_kills_of_server_or_worker_lose_nothing(tmp_path: Path, stand_in: Path) -> None:
    figures = campaign(lambda data: marmo_serve(stand_in, data), tmp_path, 10, 0, ["server", "worker"])
    assert figures["kills of the server"] > 0 and figures["kills of the worker"] > 0
    assert figures["kills of the server"] + figures["kills of the worker"] == 10
    assert figures["succeeded"] > 0 and figures["jobs acknowledged"] > 10
