"""A run's folder, device and feed; the loop itself is tested in test_resume.py."""

import json
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from marmo.train import ema
from marmo.train.feed import feed
from marmo.train.run import start
from marmo.train.state import State
from marmo.weights.store import open_file
from tests.train.toy import Config, main


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_feed_reads_every_rank_its_own(workers):
    seen = []
    for first in (0, 4):
        with closing(feed(str, 16 + first, size=4, stride=8, workers=workers)) as parts:
            seen.append(list(islice(parts, 3)))
    flat = [int(item) for pair in zip(*seen, strict=True) for part in pair for item in part]
    assert flat == list(range(16, 40))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_source_raises_arrives(workers):
    def broken(position: int) -> int:
        raise ValueError(f"no {position}")

    with closing(feed(broken, 0, 2, 2, workers)) as parts, pytest.raises(ValueError, match="no 0"):
        next(parts)


def test_devices_and_dtypes(tmp_path):
    config = Config(folder=tmp_path)
    for change, sentence in (
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"dtype": "float16"}, "dtype 'float16' cannot be trained in; choose float32 or bfloat16"),
    ):
        with pytest.raises(ValueError, match=sentence), start(replace(config, **change)):
            pass
    with start(config) as run, run.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.float32


def test_bfloat16_is_for_the_arithmetic_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("marmo.nn.device.cpu_has_bfloat16", lambda: True)
    with start(Config(folder=tmp_path, dtype=None)) as run, run.autocast():
        layer = torch.nn.Linear(2, 2)
        assert run.dtype is layer(torch.ones(1, 2)).dtype is torch.bfloat16
        assert layer.weight.dtype is torch.float32


def test_bfloat16_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("marmo.nn.device.cpu_has_bfloat16", lambda: False)
    with start(Config(folder=tmp_path, dtype=None)) as run:
        assert run.dtype is torch.float32
    with (
        pytest.raises(ValueError, match="this cpu device has no bfloat16"),
        start(Config(folder=tmp_path, dtype="bfloat16")),
    ):
        pass


def test_the_folder(tmp_path):
    main(Config(folder=tmp_path, images=40))
    assert json.loads((tmp_path / "config.json").read_bytes())["lr"] == 0.01
    assert json.loads((tmp_path / "done.json").read_bytes())["images"] == 40
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", "checkpoints", "config.json", "done.json", "log.jsonl", "tensorboard",
    }  # fmt: skip


def test_a_run_that_fails_is_not_done(tmp_path):
    config = Config(folder=tmp_path, images=40)
    main(config)
    with pytest.raises(RuntimeError), start(config):
        raise RuntimeError
    assert not (tmp_path / "done.json").exists()


def test_a_folder_is_taken_when_something_was_read(tmp_path):
    """A command that names its data wrongly can be corrected in the same folder; one that has trained there cannot."""

    def broken(position: int) -> int:
        raise ValueError("none can be used")

    wrong = Config(folder=tmp_path, images=40, lr=0.5)
    state = main(replace(wrong, folder=tmp_path / "other", images=8))
    with pytest.raises(ValueError, match="is missing"), start(wrong):
        raise ValueError("what is to be learnt from is missing")
    with pytest.raises(ValueError, match="none can be used"), start(wrong) as run:
        next(run.batches(broken, state))
    assert not (tmp_path / "config.json").exists()
    main(Config(folder=tmp_path, images=40))
    assert json.loads((tmp_path / "config.json").read_bytes())["lr"] == 0.01
    with pytest.raises(ValueError, match=r"was trained with lr 0\.01 and not 0\.5"), start(wrong):
        pass
    assert json.loads((tmp_path / "config.json").read_bytes())["lr"] == 0.01


def test_what_is_not_finite_ends_the_run(tmp_path):
    config = Config(folder=tmp_path)
    with start(config) as run, pytest.raises(ValueError, match=r"loss is nan after \d+ images; try a lower"):
        state = main(replace(config, folder=tmp_path / "other", images=8))
        run.log(state, loss=float("nan"))


def test_every_is_also_at_the_end(tmp_path):
    config = Config(folder=tmp_path, images=40)
    state = main(config)
    with start(config) as run:
        assert run.every(1000, state) and run.every(8, state) and not run.every(0, state)
    with start(replace(config, images=48)) as run:
        assert not run.every(1000, state)


def test_steps_draw_from_seed_and_position(tmp_path):
    def draws(seed: int, images: int) -> list[float]:
        with start(Config(folder=tmp_path / str(seed), seed=seed)) as run:
            state = main(Config(folder=tmp_path / f"{seed} {images}", seed=seed, images=images))
            return [float(torch.rand(())) for _ in islice(run.batches(lambda position: position, state), 1)]

    assert draws(0, 8) == draws(0, 8)
    assert len({*draws(0, 8), *draws(0, 16), *draws(1, 8)}) == 3


def test_sheets_and_snapshots(tmp_path):
    config = Config(folder=tmp_path, images=40)
    state: State = main(config)
    with start(config) as run:
        run.sheet(state, torch.zeros(2, 3, 8, 8))
        run.snapshot(state)
    assert (tmp_path / "samples" / f"{40:012d}.png").is_file()
    for name, average in state.main.averages.items():
        tensors = open_file(tmp_path / "averages" / name / f"{40:012d}.safetensors")
        assert tensors.read("0.weight").dtype is torch.float16
        torch.testing.assert_close(tensors.read("0.weight").float(), average.model[0].weight, rtol=1e-3, atol=1e-3)
    profile = ema.Profile(ema.exponent(0.1), 40)
    power = open_file(tmp_path / "averages" / "power" / f"{40:012d}.safetensors")
    found = ema.reconstruct({profile: power}, 0.1, 40)
    torch.testing.assert_close(found.read("0.weight"), power.read("0.weight").float())


@pytest.mark.long
@pytest.mark.parametrize("knob", [
    {"batch_size": 4}, {"accumulate": 1}, {"clip": None}, {"lr": 0.02}, {"dropout": 0.0}, {"seed": 4},
])  # fmt: skip
def test_every_knob_acts(tmp_path: Path, knob: dict[str, object]) -> None:
    config = Config(folder=tmp_path / "a", images=24)
    one, other = main(config), main(replace(config, folder=tmp_path / "b", **knob))
    assert not torch.equal(one.main.model[0].weight, other.main.model[0].weight)
