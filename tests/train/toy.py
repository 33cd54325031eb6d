"""A run of seconds with everything in it that must survive: dropout, running statistics, two averages, accumulation.

python tests/train/toy.py plain FOLDER          # one run, alone or under torchrun
python tests/train/toy.py kill FOLDER COUNT IMAGES     # FOLDER/straight, then FOLDER/killed with so many kill -9
"""

import os
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from marmo.train import ema, optim
from marmo.train.run import leave, start
from marmo.train.state import Learner, State


@dataclass(frozen=True, kw_only=True)
class Config:
    folder: Path
    images: int = 240
    batch_size: int = 8
    accumulate: int = 2
    clip: float | None = 0.5
    lr: float = 1e-2
    dropout: float = 0.25
    seed: int = 3
    device: str | None = "cpu"
    dtype: str | None = "float32"
    workers: int = 2
    keep: int = 2
    log_images: int = 24
    save_images: int = 40
    pause: float = 0.0
    """Seconds for every image"""
    stop: int = 0
    """Leave the loop after so many images, as if killed"""


def source(position: int) -> tuple[Tensor, Tensor]:
    """x and its answer at a position."""
    generator = torch.Generator().manual_seed(position)
    x = torch.randn(6, generator=generator)
    return x, x.sin().sum()[None]


def main(config: Config) -> State:
    with start(replace(config, pause=0.0, stop=0)) as run:
        model = nn.Sequential(
            nn.Linear(6, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(32, 1)
        )
        averages = {"power": ema.Average(model, ema.power(0.1)), "constant": ema.Average(model, ema.constant(0.9))}
        learner = Learner(
            model,
            optim.adamw(model),
            averages,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            clip=config.clip,
        )
        state = State({"model": learner})
        run.restore(state)
        for pairs in run.batches(source, state):
            time.sleep(config.pause)
            x, y = (torch.stack(column) for column in zip(*pairs, strict=True))
            loss = (model(x) - y).square().mean()
            state.step(loss, optim.rate(config.lr, state.images, config.images, "cosine", warmup=32))
            if run.every(config.log_images, state):
                run.log(state, loss=loss, norm=learner.norm, lr=learner.lr)
            if run.every(config.save_images, state):
                run.save(state)
            if config.stop and state.images >= config.stop:
                break
        return state


def kill(folder: Path, count: int, images: int) -> None:
    """Every run is a fork of this process, which has torch already; prints how many were killed while at work.

    The parent never computes: a fork of a process with threads may wait for a lock that no thread will ever give back.
    """
    torch.set_num_threads(1)
    os.waitpid(_fork(Config(folder=folder / "straight", images=images)), 0)
    config = Config(folder=folder / "killed", images=images, pause=0.01)
    chance, killed = random.Random(os.environ.get("KILL_SEED", "0")), 0
    while killed < count:
        child = _fork(config)
        time.sleep(chance.uniform(0.02, 0.35))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    status = os.waitpid(_fork(config), 0)[1]
    print(f"killed {killed}, then ended with {status}")


def _fork(config: Config) -> int:
    """A child that runs; -> its process id."""
    child = os.fork()
    if child == 0:
        main(config)
        os._exit(0)
    return child


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(Config(folder=Path(sys.argv[2])))
        leave()
