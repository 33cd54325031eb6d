"""The words of a prompt that a model has never read, with the nearest that it has.

    words = KnownWords(read_concepts(folder / "concepts.txt"))
    words.unknown("a helicopter above a cat")    # [Unknown("helicopter", ("airplane", "rocket"))]

A prompt is cut into the longest phrases that are known, or that name a concept of the corpus; what is left over is not
known.  Near is a concept of the same subgroup in Unicode, a name that holds the word, or one spelled like it.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from marmo.data.corpus import Concept, corpus
from marmo.data.english import plural
from marmo.data.vocabulary import Phrase, Token, known_phrases, phrase, plain, silent, tokens

NEAR = 2
"""So many near words are named."""
ALIKE = 0.74
"""The share of letters that words must have in common to be spelled alike; grey and gray have three of four."""
TOLD, LETTERS = 6, 40
"""Words that are named, and letters of one."""


@dataclass(frozen=True)
class Unknown:
    """A word that the model has never read."""

    word: str
    near: tuple[str, ...]
    """Names that it has read."""


@dataclass(frozen=True)
class Span:
    """Tokens that belong together."""

    start: int
    end: int
    is_known: bool
    concept: Concept | None = None
    """What they name, whether the model knows that or not."""
    is_chinese: bool = False
    is_closed: bool = False
    """Whether it has its noun, after which another word begins."""


class KnownWords:
    """The words of a model that was trained on captions of these concepts, the most wanted concept first."""

    def __init__(self, concepts: Sequence[str]) -> None:
        self.concepts = [corpus()[id] for id in concepts]
        self.known = known_phrases(self.concepts)
        others = [concept for concept in corpus().concepts if concept.id not in set(concepts)]
        named = {phrase(name): it for it in others for name in (*it.en, *map(plural, it.en), *it.zh)}
        self.others: Mapping[Phrase, Concept] = {words: it for words, it in named.items() if not self._is_said(words)}
        self.longest = max(map(len, (*self.known, *self.others)))
        self.silent = silent()

    def _is_said(self, words: Phrase) -> bool:
        """Whether known phrases make it up: a yellow star may be the shape in a colour."""
        ends = {0}
        for end in range(1, len(words) + 1):
            if any(words[start:end] in self.known for start in ends):
                ends.add(end)
        return len(words) in ends

    def unknown(self, text: str) -> list[Unknown]:
        """Each unknown word of a text once, in its order."""
        text = plain(text)
        found = {text[span.start : span.end]: span for span in _joined(list(self._spans(text))) if not span.is_known}
        return [Unknown(word, self._near(word, span)) for word, span in found.items()]

    def _spans(self, text: str) -> Iterator[Span]:
        left = list(tokens(text))
        while left:
            taken = self._longest(left)
            here, left = left[:taken], left[taken:]
            words = tuple(token.text for token in here)
            is_known, concept = words in self.known, self.known.get(words) or self.others.get(words)
            if is_known or concept is not None or words[0] not in self.silent:
                yield Span(here[0].start, here[-1].end, is_known, concept, any(token.is_chinese for token in here))

    def _longest(self, left: Sequence[Token]) -> int:
        """How many of the next tokens are one phrase."""
        for length in range(min(self.longest, len(left)), 1, -1):
            words = tuple(token.text for token in left[:length])
            if words in self.known or words in self.others:
                return length
        return 1

    def _near(self, word: str, span: Span) -> tuple[str, ...]:
        if not span.is_chinese and not word.isascii() and (meant := self._meant(word)) is not None:
            return meant
        near = self._named_like(word, span.is_chinese) if span.concept is None else self._kin(span)
        return tuple(dict.fromkeys(near))[:NEAR]

    def _named_like(self, word: str, in_chinese: bool) -> list[str]:
        """Known names that hold the word, else known words that are spelled like it."""
        names = [name for it in self.concepts for name in (it.zh if in_chinese else it.en)]
        said = [" ".join(words) for words, it in self.known.items() if it is None and len(words[0]) > 2]
        holding = [name for name in names if _holds(name, word, in_chinese)]
        return holding or get_close_matches(word, names + said, NEAR, ALIKE)

    def _kin(self, span: Span) -> list[str]:
        """Known concepts of the same subgroup, else of the same group of subgroups."""
        assert span.concept is not None
        group, family = span.concept.group, span.concept.group.partition("-")[0]
        same = [it for it in self.concepts if it.group == group]
        kin = same or [it for it in self.concepts if it.group.partition("-")[0] == family]
        return [(it.zh if span.is_chinese else it.en)[0] for it in kin]

    def _meant(self, symbols: str) -> tuple[str, ...] | None:
        """What emoji are called: known names, or what is near to them; None for letters."""
        names = [unicodedata.name(symbol, "") for symbol in symbols if unicodedata.category(symbol) == "So"]
        if not names:
            return None
        near = list[str]()
        for span in (span for name in names for span in self._spans(plain(name))):
            if span.concept is not None:
                near += [span.concept.en[0]] if span.is_known else self._kin(span)
        return tuple(dict.fromkeys(near))[:NEAR]


def notes(unknown: Sequence[Unknown]) -> tuple[str, ...]:
    """A sentence for each word that has a near one, and one for all the others."""
    near = [
        f"the model does not know {_quoted([one.word])}; it knows {_quoted(one.near)}" for one in unknown if one.near
    ]
    far = [one.word for one in unknown if not one.near]
    more = f" and {len(far) - TOLD} more words" if len(far) > TOLD else ""
    return (*near[:TOLD], *([f"the model does not know {_quoted(far[:TOLD])}{more}"] if far else []))


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word if len(word) <= LETTERS else word[:LETTERS] + "..."}"' for word in words)


def _holds(name: str, word: str, in_chinese: bool) -> bool:
    """Whether a name has the word in it, once or several, or a Chinese word the name."""
    if in_chinese:
        return word in name or name in word
    return any(word in (piece, plural(piece)) for piece in phrase(name))


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Unknown Chinese characters side by side are one word, with a known name of one character after them: 恐龙."""
    found = list[Span]()
    for span in spans:
        last = found[-1] if found else None
        touches = last is not None and last.end == span.start and _is_piece(last) and span.is_chinese
        is_noun = span.concept is not None and span.end - span.start == 1
        if last is not None and touches and (_is_piece(span) or is_noun):
            found[-1] = Span(last.start, span.end, False, is_chinese=True, is_closed=is_noun)
        else:
            found.append(span)
    return iter(found)


def _is_piece(span: Span) -> bool:
    """Characters that are no word of the corpus."""
    return span.is_chinese and not span.is_known and not span.is_closed and span.concept is None
