"""A run that was stopped and resumed equals the unbroken one, bit for bit."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from marmo.weights.store import open_file
from tests.train.toy import Config, main

TOY = Path(__file__).with_name("toy.py")


def rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


def result(folder: Path) -> dict[str, bytes]:
    """All checkpoints, byte for byte, except for the folder's own name; and what was logged."""
    files = sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())
    texts = {str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"") for path in files}
    assert not any(".tmp" in name for name in texts)
    return texts | {"log": json.dumps(rows(folder)).encode()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("straight")
    main(Config(folder=folder))
    return result(folder)


@pytest.mark.long
@pytest.mark.parametrize(
    "stop", [8, 40, 152]
)  # before the first checkpoint, at one, after lines that will be written again
def test_stopped_anywhere(tmp_path: Path, straight: dict[str, bytes], stop: int) -> None:
    config = Config(folder=tmp_path)
    main(replace(config, stop=stop))
    main(config)
    assert result(tmp_path) == straight


def test_the_parts_are_there(straight: dict[str, bytes]) -> None:
    names = {name.rpartition("/")[2] for name in straight}
    assert names >= {
        "model.safetensors",
        "model-optimizer.safetensors",
        "model-average-power.safetensors",
        "model-average-constant.safetensors",
        "state.json",
    }
    assert {name.split("/")[1] for name in straight if "/" in name} == {f"{200:012d}", f"{240:012d}"}


def test_threads_change_nothing(tmp_path: Path, straight: dict[str, bytes]) -> None:
    main(Config(folder=tmp_path, workers=0))
    found = result(tmp_path)
    assert {name: data for name, data in found.items() if not name.endswith("state.json")} == {
        name: data for name, data in straight.items() if not name.endswith("state.json")
    }


def test_another_config_is_refused(tmp_path: Path) -> None:
    config = Config(folder=tmp_path, images=40)
    main(config)
    with pytest.raises(ValueError, match=r"was trained with clip 0.5 and not 1.0, lr 0.01 and not 0.02"):
        main(replace(config, lr=0.02, clip=1.0))


def test_a_longer_run_goes_on(tmp_path: Path) -> None:
    config = Config(folder=tmp_path, images=40)
    main(config)
    state = main(replace(config, images=80))
    assert state.images == 80
    assert json.loads((tmp_path / "done.json").read_bytes())["images"] == 80


def test_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    config = Config(folder=tmp_path, images=40)
    main(config)
    before = result(tmp_path)
    main(config)
    assert result(tmp_path) == before


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    config = Config(folder=tmp_path, images=80)
    main(config)
    newest = tmp_path / "checkpoints" / f"{80:012d}"
    (newest / "state.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"0080 is damaged .* remove it"):
        main(config)


def test_no_pickle(straight: dict[str, bytes]) -> None:
    assert not any(data.startswith((b"PK", b"\x80\x02", b"\x80\x04")) for data in straight.values())


def kills(folder: Path, count: int, seed: int, images: int = 240) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KILL_SEED": str(seed)}
    command = [sys.executable, str(TOY), "kill", str(folder), str(count), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kill_9(tmp_path: Path, straight: dict[str, bytes], seed: int) -> None:
    assert kills(tmp_path, 10, seed) == "killed 10, then ended with 0"
    assert result(tmp_path / "killed") == result(tmp_path / "straight") == straight
    newest = max((tmp_path / "killed" / "checkpoints").iterdir())
    assert open_file(newest / "model.safetensors").infos


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    """Over a run that is long enough for all of them to fall into it."""
    assert kills(tmp_path, 100, seed=3, images=4000) == "killed 100, then ended with 0"
    assert result(tmp_path / "killed") == result(tmp_path / "straight")
