"""Two processes train what one trains with the same batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marmo.train import ranks

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from marmo.train import ema, optim, ranks
from marmo.train.run import leave, start
from marmo.train.state import Learner, State
from tests.train.toy import Config, source

folder, stop = Path(sys.argv[1]), int(sys.argv[2])
with start(Config(folder=folder, images=stop, workers=0)) as run:
    torch.manual_seed(ranks.rank())  # the ranks begin with different weights, until rank 0's are everyone's
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 4))
    learner = Learner(model, optim.adamw(model), {"ema": ema.Average(model, ema.power(0.1))}, batch_size=8,
                      accumulate=2, clip=0.5)
    state = State({"model": learner})
    run.restore(state)
    for pairs in run.batches(source, state):
        x = torch.stack([x for x, _ in pairs])
        rows = model(x)
        others = ranks.gather(rows)  # every row against every other, as CLIP has it
        own = torch.arange(len(rows)) + ranks.rank() * len(rows)
        loss = nn.functional.cross_entropy(rows @ others.T, own)
        state.step(loss, 0.01)
        if run.every(8, state):
            run.log(state, loss=loss, norm=learner.norm)
        if run.every(32, state):
            run.save(state)
    numbers = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    everyone = ranks.gather(numbers)
    assert all(torch.equal(part, numbers) for part in everyone.chunk(ranks.num_ranks())), "the ranks differ"
    (folder / f"rank{ranks.rank()}.json").write_text(json.dumps(numbers.tolist()))
leave()
"""


def train(program: Path, folder: Path, processes: int, stop: int) -> None:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["src", "."])}
    root = Path(__file__).parents[2]
    command += [str(program), str(folder), str(stop)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "done.json").read_bytes())["images"] == stop


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_two_are_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    train(program, tmp_path / "one", 1, 96)
    train(program, tmp_path / "two", 2, 96)
    for ours, theirs in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert ours["images"] == theirs["images"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-4)
    one, two = (torch.tensor(json.loads((tmp_path / name / "rank0.json").read_text())) for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    train(program, tmp_path / "straight", 1, 96)
    train(program, tmp_path / "mixed", 1, 32)
    train(program, tmp_path / "mixed", 2, 96)
    straight, mixed = ({row["images"]: row["loss"] for row in rows(tmp_path / name)} for name in ("straight", "mixed"))
    assert straight.keys() == mixed.keys()
    assert list(straight.values()) == pytest.approx(list(mixed.values()), rel=1e-5)


def test_alone_everything_returns_at_once():
    x = torch.ones(2, requires_grad=True)
    assert ranks.gather(x) is x
    assert (ranks.rank(), ranks.num_ranks()) == (0, 1)
    assert ranks.means([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]
    ranks.barrier()
    ranks.agree(3, "anything", torch.device("cpu"))
