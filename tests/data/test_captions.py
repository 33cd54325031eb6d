"""Sentences are right in both languages, and say what the scene shows."""

import re

import pytest

from marmo.data.captions import caption, plain_caption
from marmo.data.corpus import corpus
from marmo.data.dice import Dice
from marmo.data.english import plural, with_article
from marmo.data.scene import Background, Kind, Relation, Scene, Thing, record
from marmo.data.scenes import sample

PLAIN = Background("plain", "white", (255, 255, 255), (255, 255, 255))


def scene_of(*things: tuple[str, str | None], kind: Kind = "single", relation: Relation | None = None) -> Scene:
    made = tuple(Thing(id, "noto", colour, None, 0.5, 0.5, 0.5) for id, colour in things)
    return Scene(kind, made, PLAIN, relation)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("fox", "foxes"),
        ("fish", "fish"),
        ("wolf", "wolves"),
        ("mouse", "mice"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("slice of pizza", "slices of pizza"),
        ("pair of glasses", "pairs of glasses"),
        ("old woman", "old women"),
        ("walking person", "walking people"),
        ("person in a wheelchair", "people in a wheelchair"),
        ("snowman", "snowmen"),
        ("tomato", "tomatoes"),
        ("kimono", "kimonos"),
        ("scarf", "scarves"),
        ("piano keyboard", "piano keyboards"),
        ("paintbrush", "paintbrushes"),
        ("bus", "buses"),
        ("fried egg in a pan", "fried eggs in a pan"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


@pytest.mark.parametrize(
    "phrase",
    ["an apple", "a unicorn", "an hourglass", "a UFO", "an SUV", "an orange cat", "a red apple", "an umbrella"],
)
def test_articles_follow_the_sound(phrase: str) -> None:
    assert with_article(phrase.split(" ", 1)[1]) == phrase


def test_plain_sentences() -> None:
    assert plain_caption(scene_of(("fox", "blue")), "en") == "a blue fox"
    assert plain_caption(scene_of(("fox", "blue")), "zh") == "一只蓝色的狐狸"
    pair = scene_of(("cat", None), ("bicycle", "red"), kind="pair", relation="left")
    assert plain_caption(pair, "en") == "a cat left of a red bicycle"
    assert plain_caption(pair, "zh") == "一只猫在一辆红色的自行车的左边"
    above = scene_of(("owl", None), ("rocket", None), kind="pair", relation="above")
    assert plain_caption(above, "en") == "an owl above a rocket"
    assert plain_caption(above, "zh") == "一只猫头鹰在一枚火箭的上面"
    assert plain_caption(scene_of(*[("fish", None)] * 2, kind="count"), "zh") == "两条鱼"
    assert plain_caption(scene_of(*[("strawberry", "pink")] * 3, kind="count"), "en") == "three pink strawberries"
    assert plain_caption(scene_of(("pair-of-gloves", "green")), "en") == "a pair of green gloves"
    assert plain_caption(scene_of(("statue-of-liberty", None)), "en") == "the Statue of Liberty"
    assert plain_caption(scene_of(("fallen-leaves", None)), "zh") == "落叶"


@pytest.mark.long
def test_captions_of_many_scenes() -> None:
    forms = {"en": 0, "zh": 0, "tags": 0}
    for index in range(1500):
        made = sample(5, index)
        text, language = made.caption.text, made.caption.language
        forms["tags" if made.caption.form == "tags" else language] += 1
        assert not re.search(r"[{}_|]|None|  |\ban? an?\b|的的|^\W|\s$", text), text
        assert 1 <= len(text) <= 170, text
        assert bool(re.search(r"[\u4e00-\u9fff]", text)) == (language == "zh"), text
        for thing in made.scene.things[:2]:
            assert thing.colour is None or _says_colour(thing.colour, text), (thing, text)
    assert forms["en"] == pytest.approx(750, abs=80)
    assert forms["zh"] == pytest.approx(600, abs=80)
    assert forms["tags"] == pytest.approx(150, abs=50)


def test_english_articles_and_numbers_agree() -> None:
    for index in range(1500):
        made = sample(6, index)
        if made.caption.language == "en":
            text = made.caption.text
            assert not re.search(r"\ba [aei]\w", text.lower().replace("a eu", "")), text
            assert not re.search(r"\b(two|three|four|five|six) \w+ness\b", text), text


def test_every_name_reads_in_every_frame() -> None:
    """No concept's words break the grammar, whatever the caption's form."""
    for concept in corpus().concepts:
        for round in range(3):
            text = caption(scene_of((concept.id, None)), Dice(f"{concept.id}{round}")).text
            assert text.strip() == text and text


def test_records_follow_geneval() -> None:
    assert record(scene_of(("fox", "blue"))) == {
        "tag": "colors",
        "include": [{"class": "fox", "count": 1, "color": "blue"}],
        "style": "noto",
    }
    pair = record(scene_of(("cat", None), ("bicycle", "red"), kind="pair", relation="above"))
    assert pair["tag"] == "position"
    assert pair["include"][1] == {"class": "bicycle", "count": 1, "color": "red", "position": ("below", 0)}
    three = record(scene_of(*[("cat", None)] * 3, kind="count"))
    assert three["include"] == [{"class": "cat", "count": 3}]
    assert three.get("exclude") == [{"class": "cat", "count": 4}]


def _says_colour(colour: str, text: str) -> bool:
    from marmo.data.colours import COLOURS

    return colour in text or COLOURS[colour].zh in text
