"""An evaluation without its pictures: every number as JSON for other programs, the scores in lines for a terminal.

json.dumps(summary(report))
print(*lines(report), sep="\\n")
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from marmo.evaluate.goals import Reached
from marmo.evaluate.judging import OracleName
from marmo.evaluate.limits import PERFECT
from marmo.evaluate.measures import Line
from marmo.evaluate.report import VERDICTS, Report
from marmo.evaluate.scores import Gap, Score, by_tag, faults, heldout_gaps, language_gaps, scores, told
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Limit, Outcome
from marmo.evaluate.tables import amount, number

Json = Mapping[str, object]


def summary(report: Report) -> dict[str, object]:
    """What `json.dumps` takes."""
    numbers = [_line(line) for line in report.lines]
    whole: dict[str, object] = {"subject": report.subject, "facts": dict(report.facts), "numbers": numbers}
    if report.goals:
        whole["goals"] = [_reached(row) for row in report.goals]
    return whole if report.outcome is None else {**whole, **_outcome(report.outcome)}


def lines(report: Report) -> Iterator[str]:
    """The scores of each part, then the other numbers, then what is wrong with the instrument."""
    if report.outcome is not None:
        yield from _scores(report.outcome)
    yield from map(_told, report.goals)
    for line in report.lines:
        yield f"{line.measured.metric:<12} {line.measured.value}  {line.basis}"
    if report.outcome is not None:
        yield from (f"warning: {sentence}" for sentence in report.outcome.warnings)
        if report.outcome.unreadable:
            yield f"warning: {report.outcome.unreadable} pictures could not be read"


def _scores(outcome: Outcome) -> Iterator[str]:
    """Both languages together, beside what real renders get."""
    for part in dict.fromkeys(mark.question.part for mark in outcome.marks):
        mine, real = ([m for m in marks if m.question.part == part] for marks in (outcome.marks, outcome.ceiling.marks))
        ceiling = by_tag(real, outcome.oracle)
        for tag, score in told(by_tag(mine, outcome.oracle)).items():
            interval = f"[{100 * score.low:.0f}, {100 * score.high:.0f}]"
            yield f"{part:<17} {tag:<14} {score.value:4.0%} {interval:<10} ceiling {ceiling[tag].value:.0%}"


def _told(row: Reached) -> str:
    """A row of the table of goals."""
    unit, found, value = row.goal.unit, row.measured, ""
    if found is not None:
        value = f"{amount(found.value, unit)} [{number(found.low, unit)}, {number(found.high, unit)}]  "
    bounds = f"floor {amount(row.goal.floor, unit)}, goal {amount(row.goal.goal, unit)}"
    return f"{row.goal.name:<40} {value}{VERDICTS[row.verdict]} ({bounds})"


def _reached(row: Reached) -> Json:
    estimate = None if row.measured is None else asdict(row.measured)
    return {**asdict(row.goal), "detail": row.detail, "measured": estimate, "verdict": row.verdict}


def _outcome(outcome: Outcome) -> Json:
    return {
        "scores": [_score(score) for oracle in outcome.oracles for score in scores(outcome.marks, oracle)],
        "heldout_gaps": [_gap(gap) for gap in heldout_gaps(outcome.marks, outcome.oracle)],
        "language_gaps": [_gap(gap) for gap in language_gaps(outcome.marks, outcome.oracle)],
        "faults": {tag: dict(counts) for tag, counts in faults(outcome.marks, outcome.oracle).items()},
        "limits": [row for limit in outcome.limits for row in _limit(limit, outcome.oracles)],
        "warnings": outcome.warnings,
        "pictures": [
            {
                "file_name": mark.question.file_name,
                "prompt": mark.question.text,
                "right": {oracle: mark.is_right(oracle) for oracle in outcome.oracles},
                "reasons": [reason.text for reason in mark.sights[outcome.oracle].verdict.reasons],
            }
            for mark in outcome.marks
        ],
        "unreadable": outcome.unreadable,
    }


def _score(score: Score) -> Json:
    return {
        "part": score.part,
        "tag": score.tag,
        "language": score.language or "both",
        "oracle": score.oracle,
        **asdict(score.estimate),
    }


def _gap(gap: Gap) -> Json:
    return {"part": gap.part, "tag": gap.tag, "against": gap.against, **asdict(gap.estimate)}


def _limit(limit: Limit, oracles: Sequence[OracleName]) -> list[Json]:
    kind = "ceiling" if limit.is_ceiling else "floor"
    return [
        {"name": limit.name, "kind": kind, "oracle": oracle, "tag": tag, **asdict(estimate)}
        for oracle in (*oracles, PERFECT)
        for tag, estimate in by_tag(limit.marks, oracle).items()
    ]


def _line(line: Line) -> Json:
    measured = line.measured
    value = asdict(measured.value) if isinstance(measured.value, Estimate) else {"value": measured.value}
    return {
        "metric": measured.metric,
        **value,
        "pictures": measured.n,
        "reference": measured.reference,
        "seed": measured.seed,
        "space": asdict(measured.space),
    }
