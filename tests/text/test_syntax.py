"""The default syntax, and what holds for every syntax: full width, fixes, limits, linear time.

How A1111 and ComfyUI read prompts, test_golden.py compares with their own code.
"""

import gc
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marmo.text.bpe import ClipTokenizer
from marmo.text.plan import default_plan
from marmo.text.syntax import MAX_CHUNKS, MAX_MARKS, SYNTAXES, SyntaxName, read_prompt
from marmo.text.weights import Segment, default_sections

MARKS = [
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    "\\",
    "a",
    "fox ",
    "0.5",
    "3",
    ":1.2)",
    "BREAK",
    " AND ",
    "（",
    "）",
    "：",
    "［",
    "］",
    "｜",
]
SOUP = st.lists(st.sampled_from(MARKS), max_size=30).map("".join)
NAMES: list[SyntaxName] = ["marmo", "a1111", "comfyui", "plain"]


def segments(text: str) -> list[list[tuple[str, float]]]:
    return [[(part, round(weight, 6)) for part, weight in section] for section in default_sections(text)]


def said(prompt: str, steps: int = 10) -> list[str]:
    plan = default_plan(prompt)
    return [plan.at(step, steps) for step in range(1, steps + 1)]


# The default syntax


def test_weights():
    assert segments("a (red) [old] (fox:1.3)") == [
        [("a ", 1.0), ("red", 1.1), (" ", 1.0), ("old", 0.909091), (" ", 1.0), ("fox", 1.3)]
    ]
    assert segments("((a:1.5) b:2)") == [[("a", 3.0), (" b", 2.0)]]
    assert segments("(a)(b)") == [[("ab", 1.1)]]
    assert segments(r"\(a\) \[b\] \\ c:d") == [[("(a) [b] \\ c:d", 1.0)]]


def test_a_bracket_without_a_partner_is_text():
    assert segments("a :( sad [fox") == [[("a :( sad [fox", 1.0)]]
    assert segments("((a) b") == [[("(", 1.0), ("a", 1.1), (" b", 1.0)]]
    assert segments("a) b]") == [[("a) b]", 1.0)]]


def test_break_acts_in_brackets_too():
    assert segments("(a BREAK b:1.2) c") == [[("a", 1.2)], [("b", 1.2), (" c", 1.0)]]
    assert segments("BREAKFAST") == [[("BREAKFAST", 1.0)]]
    assert segments("狐BREAK雪") == [[("狐", 1.0)], [("雪", 1.0)]]


def test_a_change_is_seen_by_as_many_steps_as_it_says():
    assert said("[cat:dog:0.3]") == ["cat"] * 3 + ["dog"] * 7
    assert said("a [cat:dog:4] b") == ["a cat b"] * 4 + ["a dog b"] * 6
    assert said("[fox:0.5]") == [""] * 5 + ["fox"] * 5
    assert said("[fox::0.5]") == ["fox"] * 5 + [""] * 5
    assert said("[a|b|c]", 4) == ["a", "b", "c", "a"]
    assert said("[a:[b|c]:2]", 5) == ["a", "a", "b", "c", "b"]


def test_a_mark_without_a_meaning_harms_no_other():
    """A1111 reads no change in a prompt with a stray `|`."""
    assert said("a | b [c:d:0.5]", 2) == ["a | b c", "a | b d"]


def test_and_joins_outside_of_brackets():
    assert SYNTAXES["marmo"].parts("fox AND snow :0.7 AND (a AND b:2)") == (
        ("fox", 1.0),
        (" snow", 0.7),
        (" (a AND b:2)", 1.0),
    )
    assert SYNTAXES["marmo"].parts("a cat: 2") == (("a cat: 2", 1.0),)
    assert SYNTAXES["marmo"].parts("HAND :( AND b") == (("HAND :(", 1.0), (" b", 1.0))


def everything(prompt: str, step: int) -> list[tuple[float, object]]:
    """Weights and segments of all parts at a step of 10."""
    marmo = SYNTAXES["marmo"]
    return [(weight, marmo.sections(marmo.plan(text).at(step, 10))) for text, weight in marmo.parts(prompt)]


@pytest.mark.parametrize(
    ("wide", "ascii"),
    [
        ("一只（红色：1.3）狐狸，［旧］", "一只(红色:1.3)狐狸，[旧]"),
        ("（（雪：１．５））", "((雪:1.5))"),
        ("［猫：狗：0.5］", "[猫:狗:0.5]"),
        ("［猫｜狗］（a）", "[猫|狗](a)"),
        ("狐 AND 雪：0.7", "狐 AND 雪:0.7"),
    ],
)
def test_full_width_marks_are_marks(wide: str, ascii: str):
    for step in (1, 10):
        assert everything(wide, step) == everything(ascii, step)
    assert SYNTAXES["a1111"].sections("（雪：1.5）") == [[Segment("（雪：1.5）", 1.0)]]


@given(st.text(max_size=40))
def test_a_prompt_without_marks_is_one_text_in_every_language(text: str):
    text = "".join(character for character in text if character not in "()[]:|\\（）［］：｜").strip()
    for name in NAMES:
        syntax = SYNTAXES[name]
        ((part, weight),) = syntax.parts(text)
        assert (syntax.plan(part).at(1, 5), weight) == (text, 1.0)
        assert list(syntax.sections(text)) == ([[Segment(text, 1.0)]] if text or name == "plain" else [[]])


# Chunks


def chunks_of(name: SyntaxName, prompt: str, tokenizer: ClipTokenizer) -> list[str]:
    syntax = SYNTAXES[name]
    return [tokenizer.decode(chunk.ids) for chunk in syntax.chunks(syntax.sections(prompt), tokenizer, 75)]


def test_the_default_cuts_at_a_comma_or_between_words(tokenizer: ClipTokenizer):
    assert chunks_of("marmo", "fox " * 70 + ", a b c d e f", tokenizer)[1] == "a b c d e f"
    assert chunks_of("marmo", "fox " * 70 + "，狐", tokenizer)[1] == "狐"
    assert chunks_of("marmo", "fox " * 74 + "xylophonist", tokenizer)[1] == "xylophonist"
    assert not chunks_of("a1111", "fox " * 74 + "xylophonist", tokenizer)[1].startswith("xyl")
    assert [len(text.split()) for text in chunks_of("marmo", "fox " * 160, tokenizer)] == [75, 75, 10]


def test_what_is_beyond_the_last_chunk_is_told(tokenizer: ClipTokenizer):
    prompt = read_prompt("", "marmo")
    chunks, ignored = prompt.chunks("fox " * (75 * MAX_CHUNKS) + "wolf (bear:1.2)", tokenizer, 77)
    assert (len(chunks), ignored) == (MAX_CHUNKS, "wolf bear")


# What is refused and what is told


@pytest.mark.parametrize("name", ["marmo", "a1111", "comfyui"])
@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("fox <lora:ink wash:0.8> snow", "the LoRA 'ink wash'"),
        ("<hypernet:old:1>", "the hypernetwork 'old'"),
        ("fox, (embedding:bad_hands:1.2)", "the embedding 'bad_hands'"),
        ("<lyco:x>", "the LoRA 'x'"),
    ],
)
def test_an_adapter_is_refused_by_name(name: SyntaxName, prompt: str, said: str):
    with pytest.raises(ValueError, match=f"asks for {said}, and adapters are not read yet"):
        read_prompt(prompt, name)
    assert read_prompt(prompt, "plain").parts[0].plan.at(1, 1) == prompt


def test_a_weight_beyond_100_is_refused(tokenizer: ClipTokenizer):
    text = "(fox:1e3) (wolf:101)"
    with pytest.raises(ValueError, match="the weight 101 of 'wolf'"):
        read_prompt(text, "marmo").chunks(text, tokenizer, 77)
    with pytest.raises(ValueError, match="weights lie between -100 and 100"):
        read_prompt("a AND b:1000", "a1111")
    deep = "(" * 2000 + "fox" + ")" * 2000
    with pytest.raises(ValueError, match="the weight"):
        read_prompt(deep, "marmo").chunks(deep, tokenizer, 77)


def test_what_surprises_is_told():
    assert "for a weight write (...:1.1)" in read_prompt("[fire:1.1]", "a1111").notes[0]
    assert "AND joins prompts only" in read_prompt("fox AND snow", "marmo", negative=True).notes[0]
    assert "read as plain text" in read_prompt("(" * (MAX_MARKS + 1), "marmo").notes[0]
    with pytest.raises(ValueError, match="joins 33 prompts by AND; at most 32"):
        read_prompt(" AND ".join("a" * 33), "marmo")


# Hostile text


@pytest.mark.long
@given(SOUP, st.sampled_from(NAMES))
@settings(max_examples=300, deadline=None)
@example("(a:.)", "marmo")
@example("[a:9999999999999999999999:1e999]", "a1111")
def test_any_text_is_read_or_refused(text: str, name: SyntaxName):
    try:
        prompt = read_prompt(text, name)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for part in prompt.parts:
        for end in part.plan.ends(7):
            for section in prompt.syntax.sections(part.plan.at(end, 7)):
                assert all(isinstance(weight, float) for _, weight in section)


@pytest.mark.long
@given(SOUP)
@settings(max_examples=200)
def test_no_character_but_marks_is_lost(text: str):
    """What the default syntax keeps of a text is the text without marks, numbers and breaks."""
    letters = [character for section in default_sections(text) for part, _ in section for character in part]
    assert [it for it in letters if it in "afox"] == [it for it in text if it in "afox"]


def seconds(read: Callable[[], object]) -> float:
    """Of the processor, for the fastest of three tries, without the garbage collector's."""
    times: list[float] = []
    gc.disable()
    for _ in range(3):
        start = time.process_time()
        read()
        times.append(time.process_time() - start)
    gc.enable()
    return min(times)


def read_wholly(text: str, name: SyntaxName) -> None:
    syntax = SYNTAXES[name]
    for part, _ in syntax.parts(text):
        syntax.sections(syntax.plan(part).at(1, 20))


UNITS = ["(", "()", "([", "(a", "[a:b", "[a|", ":", "a:1)", "\\", " ", "a BREAK "]


@pytest.mark.long
@pytest.mark.parametrize("name", ["marmo", "a1111", "comfyui"])
@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_time_is_linear(unit: str, name: SyntaxName):
    """Eight times the text takes about eight times the time; a quadratic reader would take 64 times."""
    short, long = unit * 500, unit * 4_000
    assert seconds(lambda: read_wholly(long, name)) < 30 * seconds(lambda: read_wholly(short, name)) + 0.01


@pytest.mark.long
@pytest.mark.parametrize("unit", ["(", "[", "()", "([)]", "[a|", "(a:1.1)", "a AND ", "BREAK ", "\\"])
@pytest.mark.parametrize("name", ["marmo", "a1111", "comfyui"])
def test_a_megabyte_of_marks_takes_little_more_than_looking_at_it(unit: str, name: SyntaxName):
    text = unit * (1_000_000 // len(unit))
    looking = seconds(lambda: [text.count(mark) for mark in "abcdefghijklmnopqrstuvwxyz"])
    assert seconds(lambda: read_prompt(text, name)) < 10 * looking + 0.01
