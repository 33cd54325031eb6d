"""How long the bundled model takes: from the command to the file, beside importing torch alone, and when it is warm.

    python -m benchmarks.start_bundled                 # the model that comes with Marmo, or a stand-in of its shape
    python -m benchmarks.start_bundled --rounds 9

`marmo generate PROMPT` and `python -c "import torch"` run by turns, both as new processes with their files in the page
cache, and the medians and their ratio are printed: of the clock, and of the processor, which company disturbs less.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from marmo.library.bundled import bundled_models

PROMPT = "a red fox"


class Spent(NamedTuple):
    """Seconds of a process."""

    clock: float
    processor: float


@dataclass(frozen=True)
class Config:
    """Measure the start and a warm picture."""

    rounds: int = 5
    threads: int = 2
    """That torch may use"""


def main(config: Config) -> None:
    """Measure, print."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # with it Marmo, unlike torch, would be compiled at every start
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = [] if bundled_models() else ["--model", str(stand_in(folder))]
        environment["MARMO_CACHE"] = str(folder / "cache")
        paint = ["-m", "marmo", "generate", PROMPT, "--seed", "7", "--output", str(folder / "out"), *model]
        commands = {"import torch": ["-c", "import torch"], "marmo generate": paint}
        taken: dict[str, list[Spent]] = {what: [] for what in commands}
        for round in range(config.rounds + 1):
            for what, command in commands.items():
                spent = timed(command, environment)
                if round:  # the first one fills the page cache and Marmo's
                    taken[what].append(spent)
        for line in start_lines(taken):
            print(line)
        print(warm(model[1] if model else None, config))


def timed(command: Sequence[str], environment: dict[str, str]) -> Spent:
    """One process, from its start to its end."""
    before, started = processor(), time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    return Spent(time.perf_counter() - started, processor() - before)


def processor() -> float:
    """Seconds that ended children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_lines(taken: dict[str, list[Spent]]) -> list[str]:
    """A row for each command and one for their ratio."""
    medians = {
        what: Spent(*(statistics.median(values) for values in zip(*spent, strict=True)))
        for what, spent in taken.items()
    }
    torch, whole = medians["import torch"], medians["marmo generate"]
    rows = [f"| {what} | {spent.clock:.2f} s | {spent.processor:.2f} s |" for what, spent in medians.items()]
    ratio = f"| ratio | {whole.clock / torch.clock:.2f} | {whole.processor / torch.processor:.2f} |"
    return ["| process start to end | clock | processor |", "|---|---|---|", *rows, ratio]


def warm(model: str | None, config: Config) -> str:
    """A picture with the model's own settings in a process that has painted before."""
    import torch  # not before the starts are measured: its threads would be company

    import marmo
    from benchmarks.machine import describe

    torch.set_num_threads(config.threads)
    opened = marmo.load(model, device="cpu", dtype="float32")
    spent: list[Spent] = []
    for seed in range(config.rounds + 1):
        clock, used = time.perf_counter(), time.process_time()
        result = opened.generate(marmo.ImageRequest(prompt=PROMPT, seed=seed))
        spent.append(Spent(time.perf_counter() - clock, time.process_time() - used))
    clock, used = (statistics.median(values) for values in zip(*spent[1:], strict=True))
    request = result.records[0].request
    what = f"{request.width} x {request.height}, {request.steps} steps of {request.sampler}, {request.schedule}"
    return f"warm picture ({what}): {clock:.2f} s by the clock, {used:.2f} s of the processor; {describe()}"


def stand_in(folder: Path) -> Path:
    """A model of the bundled one's shape with random weights, in 8 bits."""
    make = [sys.executable, "benchmarks/checkpoint.py", str(folder / "float"), "--size", "small"]
    subprocess.run(make, check=True)
    pebble = folder / "pebble"
    subprocess.run(
        [sys.executable, "-m", "marmo", "convert", str(folder / "float"), str(pebble), "--dtype", "int8"], check=True
    )
    return pebble


if __name__ == "__main__":
    main(tyro.cli(Config))
