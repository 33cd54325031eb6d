"""Prompts to a fixed length: padding, cutting, and telling what was cut."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.text.prompt import tokenize


def test_a_short_prompt_is_padded_with_the_end_token(tokenizer: ClipTokenizer) -> None:
    prompt = tokenize("a red fox", tokenizer)
    assert prompt.ids == (49406, 320, 736, 3240, *[49407] * 73)
    assert (prompt.num_tokens, prompt.ignored) == (3, "")


def test_the_padding_of_openclip(tokenizer: ClipTokenizer) -> None:
    assert tokenize("a red fox", replace(tokenizer, pad=0), length=8).ids == (49406, 320, 736, 3240, 49407, 0, 0, 0)


def test_75_tokens_fit_and_the_76th_is_reported(tokenizer: ClipTokenizer) -> None:
    full = tokenize("Fox " * 75, tokenizer)
    assert (full.num_tokens, full.ignored, full.ids[-1]) == (75, "", 49407)
    cut = tokenize("Fox " * 75 + "IN Snow ", tokenizer)
    assert cut.ids == full.ids
    assert (cut.num_tokens, cut.ignored) == (75, "IN Snow ")


@pytest.mark.parametrize(
    ("text", "room", "ignored"),
    [
        ("A Zyxomma fox", 2, "xomma fox"),  # within a word
        ("a 漢字", 2, "漢字"),  # within a character, which is then not read at all
        ("a 漢字", 4, "字"),
        ("cafe\u0301 e\u0301 x", 1, "e\u0301 x"),
        ("", 0, ""),
        ("fox", 0, "fox"),
    ],
)
def test_what_is_ignored(tokenizer: ClipTokenizer, text: str, room: int, ignored: str) -> None:
    assert tokenize(text, tokenizer, length=room + 2).ignored == ignored


@pytest.mark.parametrize("length", [1, 0, -3])
def test_a_length_without_room_for_start_and_end_is_refused(tokenizer: ClipTokenizer, length: int) -> None:
    with pytest.raises(ValueError, match=f"length must be at least 2, for start and end, got {length}"):
        tokenize("fox", tokenizer, length)


@pytest.mark.long
@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(), max_size=40), st.integers(2, 20))
def test_kept_and_ignored_make_the_prompt(text: str, length: int) -> None:
    tokenizer = clip_tokenizer()
    prompt, ids = tokenize(text, tokenizer, length), tokenizer.encode(text)
    padding = [tokenizer.end] * (length - 1 - prompt.num_tokens)
    assert prompt.ids == (tokenizer.start, *ids[: prompt.num_tokens], *padding)
    assert prompt.num_tokens == min(len(ids), length - 2)
    assert text.endswith(prompt.ignored)
    assert bool(prompt.ignored) == (len(ids) > length - 2)


@pytest.mark.parity
@pytest.mark.parametrize("length", [2, 3, 10, 77])
@pytest.mark.parametrize("text", ["", "a red fox", "fox, " * 200, "狐👩‍👩‍👧 don't <|endoftext|> x " * 3])
def test_ids_equal_transformers(tokenizer: ClipTokenizer, reference: CLIPTokenizer, text: str, length: int) -> None:
    expected = reference(text, padding="max_length", truncation=True, max_length=length).input_ids
    assert list(tokenize(text, tokenizer, length).ids) == expected
