"""`a AND b:0.7`: prompts that pull at one picture, each with a weight.

Liu et al., "Compositional Visual Generation with Composable Diffusion Models" (2206.01714); the notation is A1111's.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from marmo.text.plan import CLOSES, FULL_WIDTH

A1111_AND = re.compile(r"\bAND\b")
DEFAULT_MARK = re.compile(r"\\[\s\S]|[()\[\]]|(?<![A-Za-z0-9_])AND(?![A-Za-z0-9_])")
WEIGHT = re.compile(r"[+-]?(?:\d+\.?|\d*\.\d+)")


class Part(NamedTuple):
    """One of the prompts between the ANDs."""

    text: str
    weight: float


def a1111_parts(prompt: str) -> tuple[Part, ...]:
    """Wherever AND stands as a word, also in brackets; a number behind the last colon is a weight even without AND."""
    return tuple(_weighted(text, text) for text in A1111_AND.split(prompt))


def default_parts(prompt: str) -> tuple[Part, ...]:
    """Only outside of brackets; without AND a number behind a colon is text."""
    marks = prompt.translate(FULL_WIDTH)
    cuts = _outer_cuts(marks) if "AND" in prompt else ()
    if not cuts:
        return whole(prompt)
    starts = [0, *(cut + len("AND") for cut in cuts)]
    ends = [*cuts, len(prompt)]
    return tuple(_weighted(prompt[a:b], marks[a:b]) for a, b in zip(starts, ends, strict=True))


def whole(prompt: str) -> tuple[Part, ...]:
    """One prompt, whatever it says."""
    return (Part(prompt, 1.0),)


def _outer_cuts(marks: str) -> Sequence[int]:
    """Where the ANDs outside of paired brackets stand."""
    words: list[int] = []
    brackets: list[tuple[str, int]] = []
    for mark in DEFAULT_MARK.finditer(marks):
        match mark[0]:
            case "AND":
                words.append(mark.start())
            case "(" | "[" as opener:
                brackets.append((opener, len(words)))
            case ")" | "]" as closer if brackets and brackets[-1][0] == CLOSES[closer]:
                del words[brackets.pop()[1] :]  # these stood inside
            case _:
                pass
    return words


def _weighted(text: str, marks: str) -> Part:
    """`text:0.7`, with white space where it pleases; `marks` is the text with ASCII marks."""
    colon = marks.rfind(":")
    number = marks[colon + 1 :].strip() if colon >= 0 else ""
    if WEIGHT.fullmatch(number):
        return Part(text[:colon].rstrip(), float(number))
    return Part(text.rstrip(), 1.0)
