"""Captions are known to the last word, and planted words are named with what is near to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.data.known_words import LETTERS, TOLD, KnownWords, Unknown, notes
from marmo.data.scenes import sample
from marmo.data.selection import Selection, listed
from marmo.data.vocabulary import CHINESE_WORDS, ENGLISH, phrase, plain, tokens

CHOSEN = tuple(listed(60))
WORDS = KnownWords(CHOSEN)


def found(text: str, words: KnownWords = WORDS) -> dict[str, tuple[str, ...]]:
    return {one.word: one.near for one in words.unknown(text)}


@pytest.mark.long
def test_every_caption_is_known_and_every_grammar_word_is_said() -> None:
    """Nothing that training tells is missing from the list, and the list holds no word that nobody tells."""
    said = set[str]()
    for index in range(4000):
        text = sample(0, index, "train", Selection(frozenset(CHOSEN))).caption.text
        assert found(text) == {}, text
        said |= set(phrase(text))
    assert said >= {*ENGLISH.split(), *"".join(CHINESE_WORDS.split())}


def test_what_other_models_know_is_not_known() -> None:
    """Concepts outside the list, by any of their names; near is what Unicode files beside them."""
    assert found("a giraffe above a cat") == {"giraffe": ("cat", "dog")}
    assert found("a fir tree and a tree") == {"fir tree": ("tree", "mushroom")}
    assert found("一只长颈鹿在一只猫的左边") == {"长颈鹿": ("猫", "狗")}
    assert found("a Tokyo tower") == {"tokyo tower": ("house", "castle")}


def test_a_model_that_lacks_helicopters_names_what_flies() -> None:
    words = KnownWords(tuple(id for id in CHOSEN if id != "helicopter"))
    assert found("a helicopter", words) == {"helicopter": ("airplane", "rocket")}
    assert notes(words.unknown("two helicopters")) == (
        'the model does not know "helicopters"; it knows "airplane", "rocket"',
    )


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a red sunflowr", {"sunflowr": ("sunflower",)}),
        ("a gray cat", {"gray": ("grey",)}),
        ("a ball", {"ball": ("soccer ball",)}),
        ("apples", {"apples": ("red apple",)}),
        ("a cat's key", {}),
        ("a yellow star and a green apple", {"green apple": ("red apple", "banana")}),
        ("THREE FOXES, Twemoji Style", {}),
        ("ＲＥＤ ｃａｔ", {}),
        ("my cat is there", {}),
        ("a masterpiece", {"masterpiece": ()}),
        ("кот and コーヒー", {"кот": (), "コーヒー": ()}),
    ],
)
def test_english(text: str, unknown: dict[str, tuple[str, ...]]) -> None:
    assert found(text) == unknown


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("两只红色的狐狸", {}),
        ("一头恐怖的猪", {"恐怖": ()}),
        ("热狗", {"热狗": ("狗",)}),
        ("我的猫骑自行车", {"骑": ()}),
        ("一幅画：蓝色的鱼", {}),
        ("蘑姑和a cat在火箭的右边", {"蘑姑": ()}),
        ("一张红T恤", {"红": ("红苹果",), "t恤": ("皇冠", "连衣裙")}),
    ],
)
def test_chinese(text: str, unknown: dict[str, tuple[str, ...]]) -> None:
    words = KnownWords((*CHOSEN, "dress"))
    assert found(text, words) == unknown


def test_emoji_are_words_by_their_names() -> None:
    """The tokenizer has none of them from any caption; a family and a flag are one word each."""
    assert found("🦊 above 🐔") == {"🦊": ("fox",), "🐔": ("bird", "penguin")}
    assert list(found("a 🐻‍❄️ and 🇫🇷")) == ["🐻‍❄️", "🇫🇷"]


def test_nothing_says_nothing() -> None:
    assert found("") == found(" ,;: ()[]\n\t—…") == {}
    assert notes([]) == ()


def test_notes_are_few_and_short() -> None:
    many = [Unknown(f"word{number}", ()) for number in range(100)] + [Unknown("x" * 5000, ("cat",))] * 30
    told = notes(many)
    assert len(told) == TOLD + 1 and all(len(note) < 60 + 2 * LETTERS + 20 * TOLD for note in told)
    assert told[-1].endswith(f"and {100 - TOLD} more words")


@given(st.text(max_size=60))
def test_any_text_is_read_in_order_and_to_its_end(text: str) -> None:
    """Whatever is named stands in the text, and knowing words never depends on how often they are said."""
    unknown = found(text)
    whole = plain(text)
    assert all(word in whole for word in unknown)
    assert found(f"{text} {text}").keys() >= unknown.keys() - {tokens(whole)[0].text if tokens(whole) else ""}
