"""The suite gives right pictures full marks and wrong ones none, and its instrument can fail."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from marmo.data.prompts import CONTROLS, Part, prompts
from marmo.evaluate.found import Oracle, truth
from marmo.evaluate.gallery import Answer, collected, missing, paint, painted, prepare
from marmo.evaluate.judging import marked
from marmo.evaluate.limits import PERFECT, once
from marmo.evaluate.questions import PARTS, Question, questions, recognised
from marmo.evaluate.scores import OVERALL, agreement, by_tag, faults, heldout_gaps, language_gaps, minus, right, scores
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Limit, Outcome, evaluate, instrument
from tests.evaluate.oracles import Renders, colour_blind, perfect_oracle, rendered

SMALL: tuple[Part, ...] = ("seen", "heldout_colour", "heldout_language")


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(SMALL, per_tag=4, seeds=2)


@pytest.fixture(scope="module")
def oracle(asked: list[Question]) -> Oracle:
    return perfect_oracle(asked)


@pytest.fixture(scope="module")
def outcome(asked: list[Question], oracle: Oracle) -> Outcome:
    """Of real renders in every place, by a perfect oracle and one that cannot tell colours."""
    return evaluate(answers(asked), {"oracle": oracle, "guard": colour_blind(oracle)})


def answers(asked: Sequence[Question], shown: Sequence[Question] | None = None) -> list[Answer]:
    """Real renders of the prompts, or of others."""
    pictures = [rendered(question.prompt.scene) for question in shown or asked]
    return [Answer(question, picture.copy) for question, picture in zip(asked, pictures, strict=True)]


def limit(outcome: Outcome, name: str) -> Limit:
    return next(limit for limit in outcome.limits if limit.name == name)


# questions


def test_questions_are_prompts_in_languages_with_seeds(asked: list[Question]):
    assert len(asked) == (4 * 4 + 4 + 4) * 2 * 2
    assert [question.file_name for question in asked[:5]] == [
        "seen/single_object-000-en-0.png",
        "seen/single_object-000-en-1.png",
        "seen/single_object-000-zh-0.png",
        "seen/single_object-000-zh-1.png",
        "seen/single_object-001-en-0.png",
    ]
    assert len({question.file_name for question in asked}) == len(asked)


def test_more_prompts_or_seeds_keep_the_names_of_those_before(asked: list[Question]):
    more = {question.file_name: question.text for question in questions(SMALL, per_tag=6, seeds=3)}
    assert all(more[question.file_name] == question.text for question in asked)


def test_pictures_are_recognised_by_their_prompts(asked: list[Question]):
    texts = [asked[0].text, "a picture of something else", asked[2].text, None, asked[0].text]
    first, other, chinese, nothing, again = recognised(texts, asked)
    assert (first, other, chinese, nothing, again) == (asked[0], None, asked[2], None, asked[1])


def test_every_held_out_part_has_a_control():
    assert set(CONTROLS) == {part for part in PARTS if part.startswith("heldout")}
    assert all(prompt.style for prompt in prompts("seen_style", 4))
    assert all(prompt.record["include"][0]["count"] == 5 for prompt in prompts("seen_count", 4))


# the gallery


def test_a_painting_goes_on_where_it_stopped_and_paints_nothing_twice(tmp_path: Path):
    asked = questions(("seen",), per_tag=1, seeds=1)
    prepare(tmp_path, asked, {"model": "a"})
    painter = Renders(asked)
    stream = paint(tmp_path, asked, painter)
    assert [next(stream), next(stream)] == asked[:2]
    stream.close()  # Ctrl-C
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []
    assert missing(tmp_path, asked) == asked[2:]
    prepare(tmp_path, asked, {"model": "a"})
    assert list(paint(tmp_path, missing(tmp_path, asked), painter)) == asked[2:]
    assert painter.painted == len(asked)
    assert [answer.question for answer in painted(tmp_path, asked)] == asked


def test_a_gallery_belongs_to_one_painter(tmp_path: Path):
    prepare(tmp_path, [], {"model": "a"})
    with pytest.raises(ValueError, match="holds pictures of another model or of other settings; choose another folder"):
        prepare(tmp_path, [], {"model": "b"})


def test_a_gallery_is_a_collection_with_prompts_and_records(tmp_path: Path):
    asked = questions(("seen",), per_tag=1, seeds=1)
    prepare(tmp_path, asked, {"model": "a"})
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [(row["file_name"], row["text"]) for row in rows] == [(q.file_name, q.text) for q in asked]
    assert rows[0]["record"] == asked[0].prompt.record
    assert len(list(paint(tmp_path, asked, Renders(asked)))) == len(asked)
    assert [answer.question for answer in collected(tmp_path, asked)] == asked


def test_pictures_of_anybody_are_judged_by_their_captions(tmp_path: Path, asked: list[Question], oracle: Oracle):
    for name, text, shown in (
        ("a", asked[0].text, asked[0]),
        ("b", "a thing", asked[4]),
        ("c", asked[4].text, asked[0]),
    ):
        rendered(shown.prompt.scene).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"{text}\n", "utf-8")
    marks = marked(collected(tmp_path, asked), {"oracle": oracle})
    assert [mark and mark.is_right("oracle") for mark in marks] == [True, False]


def test_pictures_that_cannot_be_read_are_counted(asked: list[Question], oracle: Oracle):
    broken = Answer(asked[0], lambda: None)
    outcome = evaluate([broken, *answers(asked[4:6]), broken], {"oracle": oracle})
    assert (len(outcome.marks), outcome.unreadable) == (2, 2)
    with pytest.raises(ValueError, match="there is no picture to judge"):
        evaluate([broken], {"oracle": oracle})


def test_pictures_of_several_sizes_keep_their_order(asked: list[Question], oracle: Oracle):
    sizes = [32, 64, 64, 48, 32]
    given = [Answer(q, rendered(q.prompt.scene, side).copy) for q, side in zip(asked[:5], sizes, strict=True)]
    marks = [mark for mark in marked(given, {"oracle": oracle}) if mark]
    assert [mark.size[0] for mark in marks] == sizes
    assert [mark.question for mark in marks] == asked[:5] and all(mark.is_right("oracle") for mark in marks)


@pytest.mark.parametrize(("size", "is_right"), [((100, 100), True), ((400, 100), False)])
def test_directions_are_those_of_the_picture(asked: list[Question], size: tuple[int, int], is_right: bool):
    """0.2 to the right and 0.3 down is below in a square, and not in a picture four times as wide as high."""
    question = next(q for q in asked if q.tag == "position" and q.prompt.scene.relation == "above")
    upper, lower = truth(question.prompt.scene)
    seen = [replace(upper, box=(0.2, 0.2, 0.2, 0.2)), replace(lower, box=(0.4, 0.5, 0.4, 0.5))]
    (mark,) = marked([Answer(question, lambda: Image.new("RGB", size))], {"oracle": lambda pictures: [seen]})
    assert mark is not None and mark.is_right("oracle") == is_right


# scores


@pytest.mark.long
def test_right_pictures_get_full_marks_on_every_tag(outcome: Outcome):
    assert [score.estimate.value for score in scores(outcome.marks, "oracle")] == [1.0] * 27
    assert {(s.part, s.tag, s.language) for s in scores(outcome.marks, "oracle")} >= {
        ("seen", "counting", "en"), ("seen", OVERALL, None), ("heldout_colour", "colors", "zh"),
    }  # fmt: skip


def test_captions_of_others_get_chance(outcome: Outcome):
    for name in ("shuffled captions", "shuffled real renders"):
        marks = limit(outcome, name).marks
        assert {tag: score.value for tag, score in by_tag(marks, "oracle").items()} == {
            tag: score.value for tag, score in by_tag(marks, PERFECT).items()
        }
        assert right(marks, "oracle").value <= 0.05


def test_pictures_that_show_nothing_get_nothing(outcome: Outcome):
    assert [right(limit(outcome, name).marks, "oracle").value for name in ("blobs", "noise")] == [0, 0]


def test_the_ceiling_is_near_one_for_a_good_oracle_and_low_for_a_bad_one(outcome: Outcome):
    assert [limit.name for limit in outcome.limits if limit.is_ceiling] == [
        "real renders", "blurred", "noisy", "reconstructed",
    ]  # fmt: skip
    for ceiling in (limit for limit in outcome.limits if limit.is_ceiling):
        assert right(ceiling.marks, "oracle").value == 1.0
        assert right(ceiling.marks, "guard").value < 0.6
    assert all(sentence.startswith("guard finds") for sentence in outcome.warnings)
    assert any("of the colors prompts right on real renders" in sentence for sentence in outcome.warnings)


def test_an_oracle_that_sees_everything_everywhere_is_found_out(asked: list[Question]):
    few = asked[:16]
    everything = [found for question in once(few) for found in truth(question.prompt.scene)]
    ends = list(instrument(few, {"credulous": lambda pictures: [everything] * len(pictures)}, 64))
    outcome = Outcome((), ("credulous",), tuple(ends), 0)
    assert any("right on noise, and chance is 0%" in sentence for sentence in outcome.warnings)


def test_reconstruction_is_the_callers(asked: list[Question], oracle: Oracle):
    ends = instrument(asked[:4], {"oracle": oracle}, 64, reconstruct=lambda pictures: pictures * 0)
    assert {limit.name: right(limit.marks, "oracle").value for limit in ends if limit.is_ceiling} == {
        "real renders": 1, "blurred": 1, "noisy": 1, "reconstructed": 0,
    }  # fmt: skip


def test_what_is_worse_on_held_out_prompts_shows(asked: list[Question], oracle: Oracle):
    """A painter that paints no held-out colour."""
    seen = next(q for q in asked if q.part == "seen")
    shown = [seen if question.part == "heldout_colour" else question for question in asked]
    marks = [mark for mark in marked(answers(asked, shown), {"oracle": oracle}) if mark]
    gaps = {(gap.part, gap.tag): gap.estimate for gap in heldout_gaps(marks, "oracle")}
    assert gaps["heldout_colour", "colors"].value == -1
    assert not gaps["heldout_colour", "colors"].covers(0)
    assert gaps["heldout_language", "colors"].covers(0)


def test_shapes_and_the_other_language_are_not_compared(asked: list[Question], oracle: Oracle):
    marks = [mark for mark in marked(answers(asked), {"oracle": oracle}) if mark]
    colours = [q for q in asked if q.part == "seen" and q.tag == "colors" and not q.prompt.is_shape]
    gaps = {gap.part: gap.estimate for gap in heldout_gaps(marks, "oracle") if gap.tag == "colors"}
    assert gaps["heldout_colour"].n == len(colours) + 16
    assert gaps["heldout_language"].n == len(colours) // 2 + 8


def test_a_language_that_is_not_understood_shows(asked: list[Question], oracle: Oracle):
    """A painter that paints the next prompt's picture where it is asked in Chinese."""
    turned = asked[4:] + asked[:4]
    shown = [turned[i] if question.language == "zh" else question for i, question in enumerate(asked)]
    marks = [mark for mark in marked(answers(asked, shown), {"oracle": oracle}) if mark]
    gaps = {(gap.part, gap.tag): gap.estimate for gap in language_gaps(marks, "oracle")}
    assert gaps["seen", OVERALL].value == -1
    assert scores(marks, "oracle")[0].language == "en" and scores(marks, "oracle")[0].estimate.value == 1


def test_what_two_languages_share_makes_their_difference_surer():
    half = Estimate(0.5, 0.4, 0.6, 100)
    assert minus(half, half) == Estimate(0.0, pytest.approx(-0.1414, abs=1e-4), pytest.approx(0.1414, abs=1e-4), 200)
    assert minus(half, half, correlation=0.5).high == pytest.approx(0.1)
    assert minus(half, half, correlation=1).high == 0
    everything = Estimate(1.0, 0.8, 1.0, 20)
    assert (minus(everything, everything).low, minus(everything, everything).high) == pytest.approx((-0.2, 0.2))


def test_what_goes_wrong_is_counted_by_its_rule(outcome: Outcome):
    wrong = faults(outcome.marks, "guard")
    assert wrong["colors"]["colour"] == wrong["colors"].total() > 0
    assert wrong["single_object"].total() == 0


def test_two_oracles_agree_on_what_they_decide_alike(outcome: Outcome):
    alike = [mark.is_right("oracle") == mark.is_right("guard") for mark in outcome.marks]
    assert agreement(outcome.marks, "oracle", "guard").value == pytest.approx(sum(alike) / len(alike))
