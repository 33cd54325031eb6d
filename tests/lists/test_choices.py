"""Choices and wildcards: what each mark means, that seeds decide, that nothing runs away."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.lists.choices import Wildcards, draw, has_choices

NONE = Wildcards()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Wildcards:
    folder = tmp_path_factory.mktemp("wildcards")
    (folder / "zoo").mkdir()
    (folder / "animal.txt").write_text("# beasts\nfox\n\n  cat  \n", encoding="utf-8")
    (folder / "zoo" / "bird.txt").write_text("\ufeffowl\n", encoding="utf-8")
    (folder / "zoo" / "fish.txt").write_text("9::trout\n1::eel\n", encoding="utf-8")
    (folder / "scene.txt").write_text("a {red|blue} __animal__\n", encoding="utf-8")
    (folder / "hair_color.txt").write_text("black\n", encoding="utf-8")
    (folder / "self.txt").write_text("x __self__\n", encoding="utf-8")
    (folder / "动物.txt").write_text("狐狸\n", encoding="utf-8")
    return Wildcards((folder,))


def drawn(template: str, words: Wildcards = NONE, times: int = 400) -> Counter[str]:
    return Counter(draw(template, seed, words) for seed in range(times))


def test_one_of_several():
    counts = drawn("a {red|green|blue} fox")
    assert counts.keys() == {"a red fox", "a green fox", "a blue fox"}
    assert min(counts.values()) > 90  # of 133, three deviations and more


def test_weights():
    counts = drawn("{9::red|blue}")
    assert counts.keys() == {"red", "blue"} and 340 < counts["red"] < 380
    assert drawn("{0::red|blue}", times=50).keys() == {"blue"}
    assert drawn("{1.5::a|0::b}", times=20).keys() == {"a"}


def test_several_of_several():
    assert drawn("{2$$a|b|c}").keys() == {"a, b", "b, a", "a, c", "c, a", "b, c", "c, b"}
    assert drawn("{2$$ and $$a|b}").keys() == {"a and b", "b and a"}
    assert drawn("{1-2$$a|b}").keys() == {"a", "b", "a, b", "b, a"}
    assert drawn("{0-1$$a}").keys() == {"", "a"}
    assert drawn("{-1$$a}").keys() == {"", "a"}
    assert drawn("{9$$a|b}").keys() == {"a, b", "b, a"}


def test_nested():
    assert drawn("{a|{b|c} d}").keys() == {"a", "b d", "c d"}
    counts = drawn("{a|{b|c}}")
    assert counts["a"] > counts["b"] + 50  # each level is drawn by itself


def test_wildcards(words: Wildcards):
    def drawn(template: str, words: Wildcards) -> Counter[str]:
        return Counter(draw(template, seed, words) for seed in range(40))

    assert drawn("__animal__", words).keys() == {"fox", "cat"}
    assert drawn("__zoo/bird__ and __动物__", words).keys() == {"owl and 狐狸"}
    assert drawn("__zoo/*__", words).keys() == {"owl", "trout", "eel"}
    assert drawn("__scene__", words).keys() == {"a red fox", "a red cat", "a blue fox", "a blue cat"}
    assert drawn("__hair_color__ hair", words).keys() == {"black hair"}
    assert drawn("{2$$, $$__animal__|__animal__}", words).keys() == {"fox, cat", "cat, fox", "fox, fox", "cat, cat"}
    counts = drawn("__zoo/fish__", words)
    assert counts["trout"] > counts["eel"] * 3


@pytest.mark.parametrize(
    "plain",
    [
        "",
        "a {fox}",
        "{",
        "}|{",
        "a | b",
        "[a|b]",
        "(a:1.2) {x",
        "{[a|b]}",
        "a_b__c",
        "__ x __",
        "5$$",
        "{{a}}",
        r"\(a\)",
    ],
)
def test_plain_text_stays(plain: str):
    assert draw(plain, 1, NONE) == plain and not has_choices(plain)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [(r"\{a|b\}", "{a|b}"), (r"{a\|b|a\|b}", "a|b"), ("{[a|b]|[a|b]}", "[a|b]"), ("{(a:1.2)|(a:1.2)}", "(a:1.2)")],
)
def test_escapes_and_the_prompt_language(template: str, prompt: str):
    assert draw(template, 3, NONE) == prompt


def test_the_seed_decides_and_stays():
    template = "{a|b|c|d} {1|2|3} {x|y}"
    assert [draw(template, seed, NONE) for seed in (7, 7, 8)] == ["c 2 y", "c 2 y", "a 2 y"]
    first = [draw("{a|b|c|d}", seed, NONE) for seed in range(50)]
    assert first == [draw("{a|b|c|d} {e|f}", seed, NONE)[0] for seed in range(50)]  # what comes later changes nothing
    assert first != [draw("{a|b|c|d}", seed, NONE, "negative prompt") for seed in range(50)]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("__none__", r"__none__ stands for a line of none.txt, and there is none in"),
        ("__self__", "does a wildcard name itself"),
        ("{a|" * 30 + "b" + "}" * 30, None),
        ("{a|b}" * 10_001, "more than 10000 choices"),
        ("__../secret__", "there is none in"),
        ("__/etc/passwd__", "there is none in"),
    ],
)
def test_what_has_no_end(words: Wildcards, template: str, reason: str | None):
    if reason is None:
        results = {draw(template, 1, words)}
        assert results  # a first option ends the nesting
        return
    with pytest.raises(ValueError, match=reason):
        draw(template, 1, words)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="{}|$:_[]\\ab1-2.", max_size=60), st.integers(0, 2**63 - 1))
def test_any_text_is_a_prompt_or_a_refusal(template: str, seed: int):
    try:
        prompt = draw(template, seed, NONE)
    except ValueError:
        return
    assert prompt == draw(template, seed, NONE)
    if not has_choices(template) and "\\" not in template:
        assert prompt == template
