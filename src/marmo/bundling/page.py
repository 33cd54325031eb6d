"""The model card of a bundled model: written from what its runs, its evaluation and its trial wrote down."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from marmo.bundling.runs import TrainingRun
from marmo.bundling.trial import PSNR_MARGIN, RIGHT_MARGIN, Tried
from marmo.data.corpus import corpus
from marmo.evaluate.goals import Unit
from marmo.evaluate.tables import amount, number
from marmo.pipelines.card import LatentCard

CURVES, SHEET = "curves.svg", "sheet.png"
Row = Mapping[str, object]
Scores = Mapping[str, object]
"""What `marmo evaluate model` wrote as scores.json."""

ATTRIBUTION = """\
Learned from drawings of Noto Emoji (Google, Apache-2.0), Twemoji (Twitter and contributors, CC-BY 4.0:
https://creativecommons.org/licenses/by/4.0/) and Fluent Emoji Flat (Microsoft, MIT), recoloured and composed, with
names from CLDR (Unicode-3.0). `src/marmo/data/NOTICE` of Marmo has the whole attribution."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the page tells."""

    card: LatentCard
    num_parameters: Mapping[str, int]
    """By network."""
    num_bytes: int
    """Of the weights."""
    licence: str
    hardware: str
    runs: Sequence[TrainingRun]
    """That of the generator first."""
    commands: Sequence[str]
    """That make it again."""
    scores: Scores | None
    tried: Tried
    sums: Mapping[str, str]
    """Weight file -> sha256."""


def page(facts: Facts) -> str:
    """The whole README.md."""
    sections = (
        _head(facts),
        _training(facts),
        _goals(facts),
        _scores(facts),
        _eight_bits(facts.tried),
        _sheet(facts.tried),
        _limits(facts.card),
        "## Made by\n\n" + "\n".join(f"    {line}" for line in facts.commands) if facts.commands else "",
        "## Files\n\n" + _table(("file", "sha256"), ([f"`{name}`", f"`{sum}`"] for name, sum in facts.sums.items())),
        f"## Licence\n\n{facts.licence}. {ATTRIBUTION}",
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def read_scores(path: Path) -> Scores:
    """`ValueError` for a file that holds none."""
    try:
        value = cast(object, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no scores: {error}") from None
    if not isinstance(value, dict) or not isinstance(cast(Row, value).get("scores"), list):
        raise ValueError(f"{path} holds no scores; `marmo evaluate model` writes them")
    return cast(Scores, value)


def _head(facts: Facts) -> str:
    card, defaults = facts.card, facts.card.defaults
    sizes = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in facts.num_parameters.items())
    knows = f"{len(card.concepts)} concepts ([concepts.txt](concepts.txt))" if card.concepts else "the whole corpus"
    low, high = defaults.guidance.low_sigma or 0, defaults.guidance.high_sigma
    where = "" if high is None and not low else f" for sigma in ({low:g}, {'inf' if high is None else f'{high:g}'}]"
    rows = [
        ("paints", f"{defaults.width} x {defaults.height} pixels, from English and Chinese prompts"),
        ("knows", f"{knows} of {corpus().version}, drawn shapes, colours, counts, places, backgrounds, styles"),
        ("networks", f"latent diffusion, predicts {card.target}: {sizes} parameters"),
        ("size", f"{facts.num_bytes / 1e6:.1f} MB: int8 with a scale per channel, expanded when it is loaded"),
        ("defaults", f"{defaults.steps} steps of {defaults.sampler}, {defaults.schedule}, guidance "
                     f"{defaults.guidance_scale:g}{where}, rescale {defaults.guidance.rescale or 0:g}"),
    ]  # fmt: skip
    head = f"---\nlicense: {facts.licence.lower()}\nlanguage: [en, zh]\npipeline_tag: text-to-image\n---\n"
    about = "A small text-to-image model, trained from nothing by Marmo's own recipes. It comes with Marmo."
    return f"{head}\n# {card.name}\n\n{about}\n\n{_table(('', ''), rows)}"


def _training(facts: Facts) -> str:
    rows = [(run.name, f"{run.images:,}", f"{run.hours:.1f}", _settings(run)) for run in facts.runs]
    table = _table(("run", "images seen", "hours", "settings"), rows)
    data = (
        f"Data: scenes of {corpus().version}, composed anew for every picture, with captions in two languages; what "
        "the evaluation holds out was never drawn."
    )
    return (
        f"## Training\n\n{data} Hardware: {facts.hardware}.\n\n{table}\n\n![the numbers over the images seen]({CURVES})"
    )


def _settings(run: TrainingRun) -> str:
    names = ("data", "split", "target", "zero_snr", "batch_size", "lr", "ema", "seed")
    return ", ".join(f"{name} {run.config[name]}" for name in names if run.config.get(name) is not None)


def _scores(facts: Facts) -> str:
    if facts.scores is None:
        return ""
    rows = [
        (row["part"], row["tag"], row["language"], _percent(row["value"]), _interval(row), row["n"])
        for row in _rows(facts.scores, "scores")
        if row["oracle"] == "oracle"
    ]
    gaps = [
        (row["part"], row["tag"], row["against"], _percent(row["value"]), _interval(row))
        for kind in ("heldout_gaps", "language_gaps")
        for row in _rows(facts.scores, kind)
    ]
    about = "`marmo evaluate model`: the share of pictures that show what was asked for, with 95 % intervals."
    text = f"## Scores\n\n{about}\n\n" + _table(("part", "tag", "language", "right", "interval", "pictures"), rows)
    if gaps:
        text += "\n\nDifferences, in points:\n\n" + _table(("part", "tag", "against", "difference", "interval"), gaps)
    return text


def _goals(facts: Facts) -> str:
    """What a model of Marmo's own must reach, and what this one did."""
    rows = [] if facts.scores is None else [_goal(row) for row in _rows(facts.scores, "goals")]
    if not rows:
        return ""
    about = "Floors and goals were set before any training."
    return f"## Goals\n\n{about}\n\n{_table(('', 'floor', 'goal', 'measured', 'verdict'), rows)}"


def _goal(row: Row) -> tuple[object, ...]:
    unit, found = cast(Unit, row["unit"]), cast(Mapping[str, float] | None, row["measured"])
    floor, goal = (amount(cast(float, row[name]), unit) for name in ("floor", "goal"))
    if found is None:
        return row["name"], floor, goal, "", row["verdict"]
    interval = f"({number(found['low'], unit)} to {number(found['high'], unit)})"
    return row["name"], floor, goal, f"{amount(found['value'], unit)} {interval}", row["verdict"]


def _eight_bits(tried: Tried) -> str:
    mean, least, floors = sum(tried.decibels) / len(tried.decibels), min(tried.decibels), tried.floors
    return (
        "## Eight bits\n\n"
        f"Pictures from these weights against pictures from float32, {len(tried.questions)} prompts: mean {mean:.1f} "
        f"dB, the worst {least:.1f} dB. The oracle finds {_percent(tried.right)} of them right. Marmo's tests paint "
        f"the same again and want {_percent(floors.right)} ({100 * RIGHT_MARGIN:g} points less) of them right and "
        f"{floors.psnr:.1f} dB ({PSNR_MARGIN:g} less)."
    )


def _sheet(tried: Tried) -> str:
    rows = list(enumerate((question.text for question in tried.questions), 1))
    seeds = " and ".join(str(seed) for seed in sorted({question.seed for question in tried.questions}))
    text = f"Not chosen: the same {len(rows)} prompts with seed {seeds}, row by row.\n\n![pictures]({SHEET})"
    return f"## Pictures\n\n{text}\n\n{_table(('', 'prompt'), rows)}"


def _limits(card: LatentCard) -> str:
    known = f"the {len(card.concepts)} concepts of its list" if card.concepts else f"the concepts of {corpus().version}"
    return (
        "## What it cannot do\n\n"
        f"It knows {known} and nothing else: no photographs, no people, no writing, no other words. Words that it does "
        "not know are named beside the picture. It learned pictures of one size; others repeat or cut things. What of "
        "its own words comes out right how often, the scores say."
    )


def _rows(scores: Scores, name: str) -> Iterable[Row]:
    rows = scores.get(name, [])
    return cast(list[Row], rows) if isinstance(rows, list) else []


def _interval(row: Row) -> str:
    return f"{_percent(row['low'])} to {_percent(row['high'])}"


def _percent(value: object) -> str:
    return f"{100 * float(cast(float, value)):.0f} %"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
