"""Each row of the table of goals measures what its name says, and is judged by its own bounds."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from PIL import Image

from marmo.data.selection import Selection, listed
from marmo.evaluate.found import Found, truth
from marmo.evaluate.gallery import Answer
from marmo.evaluate.goals import Beside, Goal, Reached, reached
from marmo.evaluate.judging import Mark
from marmo.evaluate.limits import PERFECT, shuffled
from marmo.evaluate.questions import Question, questions
from marmo.evaluate.reconstruction import Loss
from marmo.evaluate.report import Report, page
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import SHUFFLED, Limit, Outcome
from marmo.evaluate.summary import lines, summary

Seen = Callable[[Question], Sequence[Found]]
SELECTION = Selection(frozenset(listed(60)))


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(("seen", "heldout_colour", "heldout_count", "seen_count", "heldout_concept"), 8, seeds=1,
                     selection=SELECTION)  # fmt: skip


def outcome(asked: Sequence[Question], seen: Seen) -> Outcome:
    """Pictures in which an oracle sees what a function says."""
    blank = [Mark(Answer(question, lambda: Image.new("RGB", (64, 64))), (64, 64), {}) for question in asked]
    marks = [mark.seen_as("oracle", seen(mark.question)) for mark in blank]
    known = [mark.seen_as(PERFECT, right(mark.question)) for mark in marks]
    ends = (Limit("real renders", True, tuple(known)), Limit(SHUFFLED, False, tuple(shuffled(marks))))
    return Outcome(tuple(marks), ("oracle",), ends, 0)


def table(found: Outcome | None, concepts: int = 60, beside: Beside | None = None) -> dict[str, Reached]:
    return {row.goal.name: row for row in reached(found, concepts, beside)}


def right(question: Question) -> list[Found]:
    return truth(question.prompt.scene)


def unless(is_wrong: Callable[[Question], bool], other: Seen) -> Seen:
    return lambda question: other(question) if is_wrong(question) else right(question)


def values(rows: dict[str, Reached]) -> dict[str, float]:
    return {name: row.measured.value for name, row in rows.items() if row.measured is not None}


def test_a_perfect_painter_reaches_every_goal_that_pictures_tell(asked: list[Question]) -> None:
    """But one: it paints removed concepts, too, which no honest model can."""
    rows = table(outcome(asked, right))
    verdicts = {name: row.verdict for name, row in rows.items()}
    assert verdicts.pop("removed concepts over chance") == "below"
    told = {name for name, verdict in verdicts.items() if verdict != "not measured"}
    assert len(told) == 7 and {verdicts[name] for name in told} == {"goal"}


def test_a_painter_of_nothing_misses_what_it_should(asked: list[Question]) -> None:
    rows = table(outcome(asked, lambda question: []))
    assert values(rows) == pytest.approx(dict.fromkeys(values(rows), 0.0))
    assert rows["removed concepts over chance"].verdict == "goal"
    assert rows["single concept, top 1 of all"].verdict == rows["count, 1 to 4"].verdict == "below"


def test_only_what_is_surest_counts_as_the_concept(asked: list[Question]) -> None:
    """GenEval is content with any fox in the picture; this row is not."""
    surer = Found("giraffe", 1.0, (0.0, 0.0, 0.2, 0.2), "noto", None)
    rows = table(outcome(asked, lambda question: [surer, *(replace(it, confidence=0.6) for it in right(question))]))
    assert values(rows)["single concept, top 1 of all"] == 0
    assert values(rows)["colour of a single object"] == 1


def test_two_objects_may_be_there_in_the_wrong_places(asked: list[Question]) -> None:
    """Or in wrong colours."""
    turned = unless(lambda q: q.tag == "position", lambda q: [_mirrored(it) for it in right(q)])
    found = values(table(outcome(asked, turned)))
    assert (found["two objects, both there"], found["the same: relation right as well"]) == (1, 0)
    one = unless(lambda q: q.tag == "position", lambda q: right(q)[:1])
    assert values(table(outcome(asked, one)))["two objects, both there"] == 0


def test_numbers_above_four_do_not_count(asked: list[Question]) -> None:
    def more(question: Question) -> bool:
        return question.tag == "counting" and question.prompt.record["include"][0]["count"] > 4

    found = table(outcome(asked, unless(more, lambda question: [])))
    assert values(found)["count, 1 to 4"] == 1 and any(more(question) for question in asked if question.part == "seen")


def test_the_worst_held_out_part_is_told_and_removed_concepts_are_none_of_them(asked: list[Question]) -> None:
    bad = unless(lambda q: q.part in ("heldout_colour", "heldout_concept"), lambda q: [])
    row = table(outcome(asked, bad))["held-out combinations: largest loss"]
    assert row.measured is not None and (row.measured.value, row.detail, row.verdict) == (1, "heldout_colour", "below")


def test_either_language_may_be_the_worse(asked: list[Question]) -> None:
    for language in ("en", "zh"):
        row = table(outcome(asked, unless(lambda q, it=language: q.language == it, lambda q: [])))
        measured = row["Chinese against English: apart"].measured
        assert measured is not None and measured.value == 1 and measured.low > 0


def test_more_concepts_have_a_lower_floor(asked: list[Question]) -> None:
    half = outcome(asked, unless(lambda q: q.language == "zh" and q.number < 6, lambda q: []))
    assert values(table(half))["single concept, top 1 of all"] == 0.625
    verdicts = [table(half, many)["single concept, top 1 of all"].verdict for many in (120, 200, 300)]
    assert verdicts == ["below", "below", "floor"]


@pytest.mark.parametrize(("value", "verdict"), [(0.009, "goal"), (0.03, "floor"), (0.031, "below")])
def test_less_is_better_where_something_is_lost(value: float, verdict: str) -> None:
    goal = Goal("lost", "points", 0.03, 0.01, is_limit=True)
    assert Reached(goal, Estimate(value, 0, 1, 9)).verdict == verdict


def test_everything_that_was_measured_stands_in_report_summary_and_terminal(asked: list[Question]) -> None:
    one = Estimate(0.98, 0.97, 0.99, 512)
    loss = Loss("pair", Estimate(32.5, 32.1, 32.9, 512), one, one, Estimate(0.012, 0.002, 0.02, 512))
    beside = Beside(loss, {"en": one}, Estimate(0.7, 0.6, 0.9, 5), Estimate(1.7, 1.6, 1.9, 5))
    found = outcome(asked[:8], right)
    report = Report("mine", {}, found, goals=reached(found, 60, beside))
    told = [line for line in lines(report) if "floor " in line]
    assert len(told) == 14 and sum("not measured" in line for line in told) == 7
    assert told[0].split("  ")[0] == "autoencoder on two-object scenes: PSNR"
    assert told[0].endswith("32.50 dB [32.10, 32.90]  floor reached (floor 31.00 dB, goal 34.00 dB)")
    rows = summary(report)["goals"]
    assert isinstance(rows, list) and rows[1]["measured"]["value"] == 0.012 and rows[3]["measured"] is None
    text = page(report)
    assert "What it must reach" in text and text.count("goal reached") == sum("goal reached" in line for line in told)
    assert "What it must reach" not in page(Report("mine", {}, found))


def _mirrored(found: Found) -> Found:
    left, top, right, bottom = found.box
    return replace(found, box=(1 - right, 1 - bottom, 1 - left, 1 - top))
