"""ComfyUI's notation of weights: `(word)` and `(word:1.3)`, and no other mark.

`token_weights` in `comfy/sd1_clip.py` (a125cd84, October 2025).  A number replaces the weight around it instead of
multiplying; only bare brackets multiply, by 1.1.  Square brackets, AND and BREAK are words.  The original reads a
bracket's inside anew at every level; here one pass finds the pairs and one more the weights, so the time is linear.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from marmo.text.weights import MORE, Sections, Segment

MARK = re.compile(r"\\[()]|[():]")


@dataclass
class _Group:
    """A bracket pair."""

    open: int
    close: int
    colon: int
    """The last mark inside, if it is a colon; -1 otherwise"""
    end: int
    """Of its words: before the colon if that begins a weight"""
    weight: float | None


def comfyui_sections(text: str) -> Sections:
    """One section of segments, as many as brackets cut; neighbours are not joined."""
    return [[Segment(_unescaped(part), weight) for part, weight in _segments(text) if part]]


def _segments(text: str) -> Iterator[tuple[str, float]]:
    groups, cut = _groups(text)
    opening = iter([*sorted(groups, key=lambda group: group.open), _Group(len(text), 0, -1, 0, None)])
    inside: list[tuple[_Group, float]] = []
    group, weight, position = next(opening), 1.0, 0
    while position < len(text) or inside:
        left = inside[-1][0] if inside and inside[-1][0].end <= group.open else None
        end = left.end if left else group.open
        yield from ((part, weight) for part in _cut(text, position, end, cut))
        if left:
            position, weight = left.close + 1, inside.pop()[1]
        elif group.open < len(text):
            inside.append((group, weight))
            position, weight = group.open + 1, weight * MORE if group.weight is None else group.weight
            group = next(opening)
        else:
            return


def _cut(text: str, start: int, end: int, cut: int) -> tuple[str, ...]:
    return (text[start:cut], text[cut:end]) if start < cut < end else (text[start:end],)


def _groups(text: str) -> tuple[list[_Group], int]:
    """Every bracket pair that acts, and where the words begin that hold no more marks.

    A closing bracket without a partner switches brackets off until an opening one makes up for it.  One that stays open
    makes words of all that follows, except where the text ends in a closing one, which then is its partner.
    """
    groups: dict[int, _Group] = {}  # by where they close
    open_brackets: list[int] = []
    debt, colon = 0, -1  # closing brackets without a partner; where the last mark stands if it is a colon
    for mark in MARK.finditer(text):
        position = mark.start()
        if mark[0] == "(" and debt:
            debt -= 1
        elif mark[0] == "(":
            open_brackets.append(position)
        elif mark[0] == ")" and open_brackets:
            groups[position] = _group(text, open_brackets.pop(), position, colon)
        elif mark[0] == ")":
            debt += 1
        colon = position if mark[0] == ":" else -1
    late = _pairs_at_the_end(text, open_brackets, groups)
    cut = open_brackets[len(late)] if len(late) < len(open_brackets) else len(text)
    return [group for group in (*groups.values(), *late) if group.open < cut], cut


def _pairs_at_the_end(text: str, open_brackets: list[int], groups: dict[int, _Group]) -> list[_Group]:
    """Gives the last closing bracket to the first open one, and so on inward; `groups` loses its former pairs."""
    late: list[_Group] = []
    end = len(text)
    while len(late) < len(open_brackets) and end - 1 in groups:
        inner = groups.pop(end - 1)
        late.append(_group(text, open_brackets[len(late)], end - 1, inner.colon))
        open_brackets.append(inner.open)
        end = late[-1].end
    return late


def _group(text: str, start: int, close: int, colon: int) -> _Group:
    """What stands behind the colon is a weight if it is a number and something stands before it."""
    if colon > start + 1:
        try:
            return _Group(start, close, colon, colon, float(text[colon + 1 : close]))
        except ValueError:
            pass
    return _Group(start, close, colon, close, None)


def _unescaped(text: str) -> str:
    return text.replace("\\)", ")").replace("\\(", "(")
