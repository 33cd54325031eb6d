"""How much of each word: `(word)`, `(word:1.3)`, `[word]` and `BREAK`, in A1111's notation.

    (word)      weight 1.1              [word]   weight 1 / 1.1
    (word:1.3)  weight 1.3              BREAK    what follows is read by itself
    \\( \\) \\[ \\]  the brackets themselves

Nested weights multiply.  Round and square brackets know nothing of each other, as in A1111
(`parse_prompt_attention` in `modules/prompt_parser.py`, version 1.10), which multiplies in another order: weights agree
to the last but one bit.  One pass finds the spans and one spreads their factors, so the time is linear.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, TypeAlias

from marmo.text.plan import FULL_WIDTH

MORE, LESS = 1.1, 1 / 1.1

# Possessive, so that nothing is tried twice.
MARK = re.compile(r"\\[()\[\]\\]?|:\s*+([+-]?(?:\d++\.?+\d*+|\.\d++))\s*+\)|[()\[\]]")
A1111_BREAK = re.compile(r"\bBREAK\b")
DEFAULT_BREAK = re.compile(r"(?<![A-Za-z0-9_])BREAK(?![A-Za-z0-9_])")


class Segment(NamedTuple):
    """Words of one weight."""

    text: str
    weight: float


Sections: TypeAlias = Sequence[Sequence[Segment]]
"""The segments between the BREAKs: one section at least."""


@dataclass
class _Span:
    """A bracket: the fragments that it holds and what their weights are multiplied by."""

    start: int
    end: int
    factor: float


@dataclass
class _Fragment:
    """A piece of text without marks."""

    text: str
    is_break: bool = False
    is_bracket: bool = False
    """The place of an opening bracket, which holds its text where it has no partner"""


def default_sections(text: str) -> Sections:
    """The default syntax: Chinese punctuation too; a bracket without a partner is text; BREAK acts anywhere."""
    scan = _Scan(DEFAULT_BREAK)
    scan.read(text, text.translate(FULL_WIDTH))
    for span, opener in scan.unpaired():
        span.factor = 1.0
        scan.fragments[span.start - 1].text = opener
    return _sections(scan.fragments, scan.factors(), [fragment.is_break for fragment in scan.fragments])


def a1111_sections(text: str) -> Sections:
    """A1111's: a bracket without a partner acts to the end, and BREAK in a weighted bracket is a word.

    There BREAK is a segment of weight -1, and only while that weight is -1 does it act.
    """
    scan = _Scan(A1111_BREAK)
    scan.read(text, text)
    factors = [-factor if it.is_break else factor for it, factor in zip(scan.fragments, scan.factors(), strict=True)]
    breaks = [it.is_break and factor == -1 for it, factor in zip(scan.fragments, factors, strict=True)]
    return _sections(scan.fragments, factors, breaks)


def plain_sections(text: str) -> Sections:
    """No marks: the text as it stands."""
    return [[Segment(text, 1.0)]]


class _Scan:
    """The fragments of a text and the brackets around them."""

    def __init__(self, break_word: re.Pattern[str]) -> None:
        self.break_word = break_word
        self.fragments: list[_Fragment] = []
        self.spans: dict[str, list[_Span]] = {"(": [], "[": []}
        self.open: dict[str, list[tuple[_Span, str]]] = {"(": [], "[": []}

    def read(self, text: str, marks: str) -> None:
        """`marks` is the text with ASCII marks."""
        position = 0
        for mark in MARK.finditer(marks):
            self._add(text[position : mark.start()])
            self._mark(mark[0], mark[1], text[mark.start() : mark.end()])
            position = mark.end()
        self._add(text[position:])
        for span, _ in self.unpaired():
            span.end = len(self.fragments)

    def unpaired(self) -> list[tuple[_Span, str]]:
        """The brackets that never close, and how they are written."""
        return [*self.open["("], *self.open["["]]

    def factors(self) -> list[float]:
        """What each fragment's weight is."""
        count = len(self.fragments)
        both = zip(_spread(self.spans["("], count), _spread(self.spans["["], count), strict=True)
        return [first * second for first, second in both]

    def _add(self, text: str) -> None:
        if not text:
            return
        words = self.break_word.split(text) if "BREAK" in text else [text]
        for index, part in enumerate(words):
            if index:
                self.fragments.append(_Fragment("BREAK", is_break=True))
            part = part.lstrip() if index else part
            self.fragments.append(_Fragment(part.rstrip() if index < len(words) - 1 else part))

    def _mark(self, mark: str, number: str | None, written: str) -> None:
        if mark[0] == "\\":
            self.fragments.append(_Fragment(written[1:]))
        elif mark in "([":
            self._open(mark, written)
        elif number is not None:
            self._close("(", float(number), written)
        else:
            self._close(*(("(", MORE) if mark == ")" else ("[", LESS)), written)

    def _open(self, opener: str, written: str) -> None:
        self.fragments.append(_Fragment("", is_bracket=True))
        span = _Span(len(self.fragments), 0, MORE if opener == "(" else LESS)
        self.spans[opener].append(span)
        self.open[opener].append((span, written))

    def _close(self, opener: str, factor: float, written: str) -> None:
        if not self.open[opener]:
            self.fragments.append(_Fragment(written))
            return
        span, _ = self.open[opener].pop()
        span.end, span.factor = len(self.fragments), factor


def _spread(spans: Sequence[_Span], count: int) -> list[float]:
    """For each of `count` fragments the product over the spans that hold it; spans nest, in order of their starts."""
    factors: list[float] = []
    inside = [_Span(0, count, 1.0)]
    waiting = iter((*spans, _Span(count, count, 1.0)))
    span = next(waiting)
    for position in range(count):
        while inside[-1].end <= position:
            inside.pop()
        while span.start == position:
            if span.end > position:
                inside.append(_Span(position, span.end, inside[-1].factor * span.factor))
            span = next(waiting)
        factors.append(inside[-1].factor)
    return factors


def _sections(fragments: Sequence[_Fragment], factors: Sequence[float], breaks: Sequence[bool]) -> Sections:
    """Neighbours of one weight are one segment, so that `(a)(b)` is the word `ab`; nothing joins across a break."""
    sections: list[list[Segment]] = [[]]
    rows = [row for row in zip(breaks, factors, fragments, strict=True) if row[2].text or not row[2].is_bracket]
    for (is_break, factor), group in groupby(rows, key=lambda row: (row[0], row[1])):
        if is_break:
            sections += [[] for _ in group]
            continue
        text = "".join(fragment.text for _, _, fragment in group)
        if text:
            sections[-1].append(Segment(text, factor))
    return sections
