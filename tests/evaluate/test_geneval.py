"""Each rule of GenEval decides as published, right and wrong; values computed by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.data.prompts import Part, prompts
from marmo.data.scene import Excluded, Included, Record
from marmo.evaluate.found import Found, truth
from marmo.evaluate.geneval import GENEVAL, Reason, Rules, concept_named, directions, judge

FOX, DOG = concept_named("fox"), concept_named("dog face")
LEFT_HALF, RIGHT_HALF = (0.1, 0.4, 0.3, 0.6), (0.7, 0.4, 0.9, 0.6)


def thing(
    concept: str = FOX,
    confidence: float = 0.99,
    box: tuple[float, float, float, float] = LEFT_HALF,
    style: str | None = "noto",
    colour: str | None = None,
) -> Found:
    return Found(concept, confidence, box, style, colour)


def wanted(name: str = "fox", count: int = 1, **more: object) -> Included:
    return Included({"class": name, "count": count, **more})  # type: ignore[typeddict-item]


def record(*include: Included, tag: str = "single_object", **more: object) -> Record:
    return Record(tag=tag, include=list(include), **more)  # type: ignore[typeddict-item]


TWO_FOXES = record(wanted(count=2), tag="counting", exclude=[Excluded({"class": "fox", "count": 3})])
RED = record(wanted(color="red"), tag="colors")
TWO_RED = record(wanted(count=2, color="red"), tag="counting")
RIGHT_OF = record(wanted("dog face"), wanted(position=("right of", 0)), tag="position")
BOUND = record(wanted(color="red"), wanted("dog face", color="blue"), tag="color_attr")
FLUENT = record(wanted(), style="fluent")


@pytest.mark.parametrize(
    ("truth", "found", "text"),
    [
        # objects
        (record(wanted()), [thing()], ""),
        (record(wanted()), [thing(), thing(DOG)], ""),
        (record(wanted()), [thing(), thing()], ""),
        (record(wanted()), [thing(DOG)], "expected 1 fox, found none"),
        (record(wanted()), [], "expected 1 fox, found none"),
        (record(wanted()), [thing(confidence=0.31)], ""),
        (record(wanted()), [thing(confidence=0.3)], "expected 1 fox, found none"),
        (record(wanted(), wanted("dog face"), tag="two_object"), [thing(), thing(DOG)], ""),
        (record(wanted(), wanted("dog face"), tag="two_object"), [thing()], "expected 1 dog face, found none"),
        # count
        (TWO_FOXES, [thing(), thing()], ""),
        (TWO_FOXES, [thing()], "expected 2 fox, found 1"),
        (TWO_FOXES, [thing(), thing(confidence=0.9)], "expected 2 fox, found 1"),
        (TWO_FOXES, [thing(), thing(), thing(confidence=0.89)], ""),
        (TWO_FOXES, [thing()] * 3, "expected fewer than 3 fox, found 3"),
        # colour: of the most confident objects only
        (RED, [thing(colour="red")], ""),
        (RED, [thing(colour="blue")], "expected 1 red fox, found blue"),
        (RED, [thing()], "expected 1 red fox, found as drawn"),
        (RED, [thing(colour="blue", confidence=0.5), thing(colour="red", confidence=0.8)], ""),
        (RED, [thing(colour="red", confidence=0.5), thing(colour="blue")], "expected 1 red fox, found blue"),
        (TWO_RED, [thing(colour="red")] * 2, ""),
        (TWO_RED, [thing(colour="red"), thing(colour="blue")], "expected 2 red fox, found 1 blue, 1 red"),
        # colours belong to their objects
        (BOUND, [thing(colour="red"), thing(DOG, colour="blue")], ""),
        (BOUND, [thing(colour="blue"), thing(DOG, colour="blue")], "expected 1 red fox, found blue"),
        # position: every object from every target
        (RIGHT_OF, [thing(DOG), thing(box=RIGHT_HALF)], ""),
        (RIGHT_OF, [thing(DOG, box=RIGHT_HALF), thing()], "expected fox right of its target, found it left of"),
        (RIGHT_OF, [thing(DOG), thing()], "expected fox right of its target, found it at the same place"),
        (RIGHT_OF, [thing(DOG), thing(box=(0.1, 0, 0.3, 0.1))], "expected fox right of its target, found it above"),
        # style, ours
        (FLUENT, [thing(style="fluent")], ""),
        (FLUENT, [thing()], "expected fox in fluent style, found noto"),
        (FLUENT, [thing(style=None)], "expected fox in fluent style, found a shape"),
    ],
)  # fmt: skip
def test_verdicts(truth: Record, found: list[Found], text: str):
    verdict = judge(truth, found)
    assert [reason.text for reason in verdict.reasons] == ([text] if text else [])
    assert verdict.is_right == (not text)


def test_the_most_confident_of_several_decides_where_it_is():
    near, far = thing(box=LEFT_HALF, confidence=0.5), thing(box=RIGHT_HALF, confidence=0.9)
    middle = thing(DOG, box=(0.4, 0.4, 0.6, 0.6))
    assert judge(RIGHT_OF, [middle, near, far]).is_right
    assert not judge(RIGHT_OF, [middle, replace(near, confidence=0.95), far]).is_right


def test_a_clause_that_failed_is_no_target_and_gives_one_reason():
    truth = record(wanted("dog face", color="red"), wanted(position=("right of", 0)), tag="position")
    verdict = judge(truth, [thing(DOG, colour="blue"), thing(box=RIGHT_HALF)])
    assert [reason.check for reason in verdict.reasons] == ["colour", "position"]
    assert verdict.reasons[1].text == "expected fox right of its target, found no target"


def test_of_a_class_only_the_most_confident_are_counted():
    truth = record(wanted(), exclude=[Excluded({"class": "fox", "count": 3})])
    assert not judge(truth, [thing()] * 20).is_right
    assert judge(truth, [thing()] * 20, Rules(max_objects=2)).is_right


def test_an_unknown_class_is_refused_by_name():
    with pytest.raises(ValueError, match="a record asks for 'unicorn shoe', which is the name of no concept"):
        judge(record(wanted("unicorn shoe")), [])


def test_reasons_name_the_rule():
    assert judge(FLUENT, [thing()]).reasons == (Reason("style", "expected fox in fluent style, found noto"),)


# Centres and sizes of an object, seen from one of size 0.2 x 0.2 at the middle.  The dead zone is 0.1 * (0.2 + 0.2).
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.5, 0.5, set[str]()),
        (0.5 + 0.039, 0.5, set[str]()),
        (0.5 + 0.041, 0.5, set[str]()),  # 0.001 is left of an offset of 0.041: less than half
        (0.5 + 0.079, 0.5, set[str]()),
        (0.5 + 0.081, 0.5, {"right of"}),  # 0.041 of 0.081
        (0.5 - 0.081, 0.5, {"left of"}),
        (0.5, 0.5 - 0.081, {"above"}),
        (0.5, 0.5 + 0.081, {"below"}),
        (0.5 + 0.3, 0.5 + 0.3, {"right of", "below"}),  # 0.26 of 0.424, along both
        (0.5 - 0.3, 0.5 - 0.3, {"left of", "above"}),
        (0.5 + 0.3, 0.5 + 0.2, {"right of"}),  # 0.26 and 0.16 of 0.361
        (0.5 + 0.3, 0.5 + 0.23, {"right of", "below"}),  # 0.26 and 0.19 of 0.378: 0.503
    ],
)
def test_directions_by_centres_dead_zone_and_sectors(x: float, y: float, expected: set[str]):
    middle = thing(box=(0.4, 0.4, 0.6, 0.6))
    assert directions(thing(box=(x - 0.1, y - 0.1, x + 0.1, y + 0.1)), middle, 0.1) == expected


def test_large_objects_have_a_large_dead_zone():
    large, other = thing(box=(0, 0.2, 0.6, 0.8)), thing(box=(0.1, 0.2, 0.7, 0.8))
    assert directions(other, large, 0.1) == set()  # 0.1 apart, less than 0.1 * 1.2
    assert directions(other, large, 0.0) == {"right of"}


def test_directions_are_those_of_the_picture_and_not_of_a_square():
    low, high = thing(box=(0.1, 0.1, 0.1, 0.1)), thing(box=(0.2, 0.4, 0.2, 0.4))
    assert directions(high, low, 0.1) == {"below"}
    assert directions(high, low, 0.1, aspect=4.0) == {"right of", "below"}


boxes = st.tuples(*[st.floats(0, 1)] * 4)


@given(boxes, boxes, st.floats(0, 0.5), st.floats(0.2, 5))
def test_directions_are_opposite_from_the_other_side(first, second, threshold: float, aspect: float):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    one, other = thing(box=first), thing(box=second)
    there = directions(one, other, threshold, aspect)
    assert directions(other, one, threshold, aspect) == {opposite[direction] for direction in there}
    assert not {"left of", "right of"} <= there and not {"above", "below"} <= there


@pytest.mark.long
@pytest.mark.parametrize("part", ["seen", "seen_style", "seen_count", "heldout_relation", "heldout_count"])
def test_the_truth_of_every_scene_is_right_and_that_of_another_wrong(part: Part):
    asked = prompts(part, per_tag=8)
    assert all(judge(prompt.record, truth(prompt.scene)).is_right for prompt in asked)
    others = [judge(prompt.record, truth(other.scene)).is_right for prompt, other in pairwise(asked)]
    assert sum(others) <= 1  # two prompts may be answered by the same picture
    assert not any(judge(prompt.record, []).is_right for prompt in asked)


def test_defaults_are_the_published_ones():
    assert Rules(threshold=0.3, counting_threshold=0.9, max_objects=16, position_threshold=0.1) == GENEVAL
