"""A run that is asked to end saves first, and says how to go on; a folder takes one run at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import Tensor

from marmo.files.lock import held
from marmo.train.run import Stopped
from tests.train.test_resume import result, rows
from tests.train.toy import Config, main
from tests.train.toy import source as drawn

PROGRAM = """
import sys
from pathlib import Path
from marmo.train.run import Stopped
from tests.train.toy import Config, main
try:
    main(Config(folder=Path(sys.argv[1]), pause=0.02, save_images=0))
except Stopped as stop:
    print(stop)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It comes while the fourth update's pictures are read."""

    def source(position: int) -> tuple[Tensor, Tensor]:
        if position == 25:
            signal.raise_signal(number)
        return drawn(position)

    config = Config(folder=tmp_path, images=80, save_images=0, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr("tests.train.toy.source", source)
        with pytest.raises(Stopped, match="stopped after 32 images; the same command goes on from there"):
            main(config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{32:012d}"]
    assert not (tmp_path / "done.json").exists()
    assert main(config).images == 80


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to send")
@pytest.mark.long
def test_stopped_from_outside_is_unbroken(tmp_path: Path) -> None:
    main(Config(folder=tmp_path / "straight", save_images=0))
    folder = tmp_path / "stopped"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["src", "."])}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], env=environment, cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (folder / "log.jsonl").exists() or len(rows(folder)) < 2:
        assert child.poll() is None
        time.sleep(0.05)
    with pytest.raises(ValueError, match="another process is at work"), held(folder):
        pass
    child.send_signal(signal.SIGTERM)
    told, _ = child.communicate(timeout=60)
    assert told.startswith("stopped after ")
    main(Config(folder=folder, save_images=0))
    assert result(folder)["log"] == result(tmp_path / "straight")["log"]


def test_the_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    main(Config(folder=tmp_path, images=8))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ValueError, match="another process is at work"):
        main(Config(folder=tmp_path, images=8))
