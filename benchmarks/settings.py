"""Which settings paint best per second: sampler, schedule, steps, guidance scale, its interval, its rescale.

    python -m benchmarks.settings                                     # the bundled model, one setting changed at a time
    python -m benchmarks.settings out/latent/model --steps 8 12 16 --guidance-scale 3 5 --whole

Every setting paints the same prompts of what the model knows, in both languages, and the oracle says which are right.
The answers stand in a file of lines, so that a run that was stopped goes on; the table marks what nothing else beats in
both quality and time.  Seconds are of the processor, which other programs on the machine change little.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypedDict

import tyro

from benchmarks.machine import describe
from marmo import catalog
from marmo.bundling import trial
from marmo.data.selection import EVERYTHING, Selection
from marmo.evaluate.questions import Question, questions
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest
from marmo.weights.fingerprint import weights_hash

NAMES = ("sampler", "schedule", "steps", "guidance_scale", "low_sigma", "high_sigma", "rescale")
NESTED = ("low_sigma", "high_sigma", "rescale")
Setting = dict[str, object]


class Row(TypedDict):
    """What a setting gave."""

    weights: str
    """The model's hash."""
    setting: Setting
    right: float
    pictures: int
    seconds: float


@dataclass(frozen=True)
class Config:
    """Measure settings; what is not given keeps the model's default."""

    model: tyro.conf.Positional[Path | None] = None
    """A model's folder; the bundled one by default"""
    sampler: tuple[str, ...] = ("dpmpp_2m", "unipc", "euler", "dpmpp_3m_sde")
    schedule: tuple[str, ...] = ("trailing", "karras", "exponential")
    steps: tuple[int, ...] = (8, 10, 12, 14, 16, 20, 25)
    guidance_scale: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    low_sigma: tuple[float, ...] = (0.0, 0.2, 0.5)
    high_sigma: tuple[float, ...] = (1e8, 50.0, 20.0, 5.0)
    rescale: tuple[float, ...] = (0.0, 0.35, 0.7)
    whole: bool = False
    """Every combination, and not one change at a time"""
    per_tag: int = 6
    """Prompts for each kind of question, in each language"""
    seeds: int = 1
    output: Path = Path("out/settings.jsonl")
    """Where the answers go"""


def main(config: Config) -> None:
    """Measure what is missing, then tell all."""
    model = catalog.load(config.model, "cpu", "float32")
    concepts = model.card.concepts
    selection = Selection(frozenset(concepts)) if concepts else EVERYTHING
    asked = questions(("seen",), config.per_tag, seeds=config.seeds, selection=selection)
    print(f"{model.card.name}, {len(asked)} pictures a setting, {describe()}")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(settings(config, base_of(model)))
    weights = weights_hash(model.card.files)
    known = [row for row in read(config.output) if (row["weights"], row["pictures"]) == (weights, len(asked))]
    for setting in wanted:
        if setting not in [row["setting"] for row in known]:
            known.append(measured(model, weights, setting, asked))
            with config.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[-1]) + "\n")
    for line in table([row for row in known if row["setting"] in wanted]):
        print(line)


def base_of(model: LatentDiffusion) -> Setting:
    """The model's own defaults."""
    resolved = model.resolve(ImageRequest(seed=0)).model_dump()
    return {name: resolved["guidance"][name] if name in NESTED else resolved[name] for name in NAMES}


def settings(config: Config, base: Setting) -> Iterator[Setting]:
    """The defaults first, then each change; or all combinations."""
    values: dict[str, tuple[object, ...]] = {name: getattr(config, name) for name in NAMES}
    if config.whole:
        yield from (dict(zip(NAMES, combination, strict=True)) for combination in product(*values.values()))
        return
    yield base
    yield from ({**base, name: value} for name in NAMES for value in values[name] if value != base[name])


def measured(model: LatentDiffusion, weights: str, setting: Setting, asked: Sequence[Question]) -> Row:
    """Paint and judge, after a picture that is not counted."""
    plain = {name: value for name, value in setting.items() if name not in NESTED}
    request = ImageRequest.model_validate({**plain, "guidance": {name: setting[name] for name in NESTED}})
    wanted = [request.model_copy(update={"prompt": question.text, "seed": question.seed}) for question in asked]
    trial.pictures(model, wanted[:1])
    started = time.process_time()
    painted = trial.pictures(model, wanted)
    seconds = (time.process_time() - started) / len(asked)
    right = trial.share_right(asked, painted)
    return Row(weights=weights, setting=setting, right=right, pictures=len(asked), seconds=seconds)


def read(path: Path) -> list[Row]:
    """The answers of earlier runs."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Best first; a star where no other setting is both better and faster."""
    yield "| " + " | ".join((*NAMES, "right", "s", "")) + " |"
    yield "|" + "---|" * (len(NAMES) + 3)
    for row in sorted(rows, key=lambda row: (-row["right"], row["seconds"])):
        beaten = any(
            other["right"] >= row["right"] and other["seconds"] < row["seconds"] for other in rows if other is not row
        )
        cells = [f"{value:g}" if isinstance(value, float) else str(value) for value in row["setting"].values()]
        yield "| " + " | ".join((*cells, f"{row['right']:.0%}", f"{row['seconds']:.2f}", "" if beaten else "*")) + " |"


if __name__ == "__main__":
    main(tyro.cli(Config))
