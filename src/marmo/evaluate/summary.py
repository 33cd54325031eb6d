"""An evaluation as JSON: every number of the report, one object each, for other programs and for comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from marmo.evaluate.judging import OracleName
from marmo.evaluate.limits import PERFECT
from marmo.evaluate.measures import Line
from marmo.evaluate.report import Report
from marmo.evaluate.scores import Gap, Score, by_tag, faults, heldout_gaps, language_gaps, scores
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Limit, Outcome

Json = Mapping[str, object]


def summary(report: Report) -> dict[str, object]:
    """What `json.dumps` takes."""
    numbers = [_line(line) for line in report.lines]
    whole: dict[str, object] = {"subject": report.subject, "facts": dict(report.facts), "numbers": numbers}
    return whole if report.outcome is None else {**whole, **_outcome(report.outcome)}


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
