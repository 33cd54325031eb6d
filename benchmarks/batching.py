"""Requests painted side by side against the same requests in turn: the throughput that a batch gains, shape by shape.

    python -m benchmarks.batching                                   # the toy model, small pictures
    python -m benchmarks.batching --size full --sides 256 512       # Stable Diffusion 1's shapes, random weights

The same batch that the server's worker drives, without its process.  Both ways take turns, round by round, and medians
are printed; above 1 the batch is faster.  `cap` is how many of these requests the server would let run together, from
the steps seen here.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import tyro

from benchmarks.checkpoint import random_checkpoint
from benchmarks.machine import describe
from marmo.request import ImageRequest
from marmo.serve.batching import Batch
from marmo.serve.contract import Failed, Model, Task
from marmo.serve.messages import Ended
from marmo.serve.pace import Pace, batch_key, num_rows
from marmo.serve.stock import Stock


@dataclass(frozen=True)
class Config:
    """Measure what batching gains."""

    folder: Path = Path("out")
    """Where the checkpoint lies, or will"""
    size: Literal["toy", "full"] = "toy"
    sides: tuple[int, ...] = (64, 128, 256)
    """Pictures of side x side pixels"""
    requests: tuple[int, ...] = (2, 4, 8)
    """How many at a time"""
    steps: int = 4
    rounds: int = 5
    dtype: str = "float32"
    device: str | None = None


def main(config: Config) -> None:
    """A line per shape and number of requests."""
    path = config.folder / ("sd1-float16.safetensors" if config.size == "full" else "sd1-toy.safetensors")
    if not path.exists():
        random_checkpoint(path, config.size)
    stock = Stock({"model": path}, config.device, config.dtype)
    print(f"{describe()}; {config.size}, {config.dtype}, {config.steps} steps, {config.rounds} rounds")
    for side in config.sides:
        measure(stock, config, side)


def measure(stock: Stock, config: Config, side: int) -> None:
    """Print the lines of one shape."""
    offer = next(iter(stock.offers()))
    assert isinstance(offer, Model), offer
    pace = Pace()
    requests = [_request(offer, config, side, seed) for seed in range(max(config.requests))]
    _paint(stock, requests[:1], pace)  # loads, and warms up
    for count in config.requests:
        turns, batches = list[float](), list[float]()
        for _ in range(config.rounds):
            turns.append(sum(_paint(stock, [request], pace) for request in requests[:count]))
            batches.append(_paint(stock, requests[:count], pace))
        ratio = median(turn / batch for turn, batch in zip(turns, batches, strict=True))
        spread = [turn / batch for turn, batch in zip(turns, batches, strict=True)]
        print(
            f"{side:>5} px, {count} requests: in turn {median(turns):7.2f} s, together {median(batches):7.2f} s, "
            f"ratio {ratio:.2f} ({min(spread):.2f} to {max(spread):.2f})"
        )
    cap = pace.cap(batch_key(requests[0])) // num_rows(requests[0])
    print(f"{side:>5} px: cap {cap} requests")


def _request(offer: Model, config: Config, side: int, seed: int) -> ImageRequest:
    wanted = ImageRequest(
        prompt="a red fox", model="model", width=side, height=side, steps=config.steps, seed=seed, sampler="euler"
    )
    return wanted.resolve(offer.defaults)


def _paint(stock: Stock, requests: Sequence[ImageRequest], pace: Pace) -> float:
    """Seconds until all are done."""

    def tell(report: object) -> None:
        assert not isinstance(report, Failed), report
        if isinstance(report, Ended):
            pace.add(report.operation, report.seconds)

    batch = Batch(stock, tell)
    for index, request in enumerate(requests):
        batch.add(Task(job=str(index), attempt=1, request=request))
    start = time.perf_counter()
    while len(batch):
        batch.work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Config))
