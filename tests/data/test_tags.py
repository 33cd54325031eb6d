from collections import Counter
from itertools import permutations

import pytest

from marmo.data.tags import Wording, word

TAGS = "1girl, solo,  red hair ,smile,, outdoors"


def test_as_it_stands():
    assert word(TAGS, Wording(), 0, 0) == TAGS


def test_the_first_stay():
    wording = Wording(shuffle=True, keep=2)
    seen = {word(TAGS, wording, 0, position) for position in range(200)}
    assert all(caption.startswith("1girl, solo, ") for caption in seen)
    assert seen == {f"1girl, solo, {a}, {b}, {c}" for a, b, c in permutations(("red hair", "smile", "outdoors"))}


def test_the_same_position_says_the_same():
    wording = Wording(shuffle=True, drop=0.3)
    one, two = ([word(TAGS, wording, seed, position) for position in range(50)] for seed in (1, 1))
    assert one == two != [word(TAGS, wording, 2, position) for position in range(50)]


def test_dropping():
    counts = Counter(word("a fox", Wording(drop=0.1), 0, position) for position in range(5000))
    assert set(counts) == {"", "a fox"} and 400 < counts[""] < 600
    assert word("a fox", Wording(drop=1.0), 0, 0) == ""


def test_another_separator():
    assert sorted(word("b|a", Wording(shuffle=True, separator="|"), 0, 1).split("| ")) == ["a", "b"]


@pytest.mark.parametrize("options", [{"drop": 1.1}, {"drop": -0.1}, {"keep": -1}, {"separator": ""}])
def test_impossible(options):
    with pytest.raises(ValueError, match="drop lies between"):
        Wording(**options)
