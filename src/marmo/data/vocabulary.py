"""What captions about chosen concepts can say, as phrases of tokens: the words that a model trained on them has read.

A token is a Latin word or a number, in small letters, one Chinese character, or a run of emoji.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from marmo.data import chinese, english
from marmo.data.backgrounds import GROUNDS, PAINTS
from marmo.data.colours import COLOURS
from marmo.data.corpus import Concept, corpus, shape_concepts
from marmo.data.splits import held_out

Phrase = tuple[str, ...]

CHINESE = "㐀-䶿一-鿿"
EMOJI = "\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
TOKEN = re.compile(rf"[{CHINESE}]|[{EMOJI}][{EMOJI}\ufe0f\u200d]*|[^\W_{CHINESE}]+")
POSSESSIVE = re.compile(r"['’]s\b")

ENGLISH = (
    "a an the of and with to on in at it next left right above below under top bottom one single just group picture "
    "drawing illustration style background against big small 1 2 3 4 5 6"
)
CHINESE_WORDS = "的 在 是 有 和 与 图中 画里 画着 左边 右边 上面 下面 风格 图画 背景 大大的 小小的 一 两 三 四 五 六"
"""What the grammars of `english` and `chinese` say beside names, colours, styles and backgrounds."""

SILENT = (
    "is are was were be being has have there this that these those its his her their my your our i you we he she they "
    "some any please me 了 着 过 我 你 他 她 它 们 请 这 那 把 被 给 吗 呢 吧 啊 也 都 就 很 正 画 里 中 上 下"
)
"""Shows nothing in a picture, so it does not matter whether it is known."""


class Token(NamedTuple):
    """A piece of a text and where it stands."""

    text: str
    start: int
    end: int

    @property
    def is_chinese(self) -> bool:
        return re.match(f"[{CHINESE}]", self.text) is not None

    @property
    def is_emoji(self) -> bool:
        return re.match(f"[{EMOJI}]", self.text) is not None


def plain(text: str) -> str:
    """As tokens are found in it: full-width letters as plain ones, small, nobody's possessions."""
    return POSSESSIVE.sub("", unicodedata.normalize("NFKC", text).casefold())


def tokens(text: str) -> Sequence[Token]:
    """The tokens of a plain text, in order."""
    return [Token(found[0], found.start(), found.end()) for found in TOKEN.finditer(text)]


def phrase(text: str) -> Phrase:
    """A name or a word as its tokens."""
    return tuple(token.text for token in tokens(plain(text)))


def known_phrases(concepts: Iterable[Concept]) -> Mapping[Phrase, Concept | None]:
    """Everything that captions of these concepts, and of shapes, can say; names with what they name."""
    words = dict.fromkeys(map(phrase, _words()))
    chosen = [*concepts, *shape_concepts()]
    measures = {phrase(concept.measure): None for concept in chosen}
    return words | measures | {phrase(name): concept for concept in chosen for name in forms(concept)}


def forms(concept: Concept) -> Iterator[str]:
    """The names that training captions use, English ones in the plural, too."""
    for name in _told(concept.en):
        for form in (name, english.plural(name)):
            yield form
            if english.LOOSE_HEADS.match(name):
                yield from form.split(" of ")  # a colour may come between: bunches of red grapes
    yield from _told(concept.zh)


def _told(names: Sequence[str]) -> Iterator[str]:
    """The first, and the synonyms that name nothing removed."""
    yield names[0]
    yield from (name for name in names[1:] if not held_out().mentions_removed(name))


def silent() -> frozenset[str]:
    """Tokens that need not be known: they show nothing, or are measure words, which a name chooses for itself."""
    return frozenset(SILENT.split()) | {concept.measure for concept in corpus().concepts}


def _words() -> Iterator[str]:
    yield from (*ENGLISH.split(), *CHINESE_WORDS.split(), *english.NUMBERS[1:], *english.STYLES.values())
    yield from (words[0] for words in english.FILLS.values())
    yield from filter(None, chinese.FILLS.values())
    for named in (*COLOURS.values(), *PAINTS.values(), *GROUNDS.values()):
        yield from (named.en, named.zh)
