"""Prompts that change while a picture is painted: `[a:b:0.5]`, `[a|b]`, and what they say at each step.

The grammar is A1111's (`modules/prompt_parser.py` of version 1.10):

    [before:after:when]   `before` up to the step `when`, `after` from then on; also [after:when] and [before::when]
    [a|b|c]               another one at every step, in turn

`when` with a decimal point is a share of the steps, without one a number of steps.  Such a group acts only where every
bracket inside it has its partner; anything else in brackets is left for weights.py to read.  One pass over the text,
without recursion, so the time is linear and nesting costs no stack.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

FULL_WIDTH = str.maketrans("（）［］：｜．", "()[]:|.")
"""Chinese punctuation that the default syntax reads as the marks that it looks like, one for one."""

MARK = re.compile(r"\\[^\n]|[()\[\]:|\\]")
WHEN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
CLOSES = {")": "(", "]": "["}
NEVER = 10**9  # steps

Piece: TypeAlias = "str | Change | Turns | Sequence[Piece]"
Pieces: TypeAlias = Sequence[Piece]


@dataclass(frozen=True, eq=False)
class Change:
    """`[before:after:when]`."""

    before: Pieces
    after: Pieces
    when: float
    is_share: bool
    """Whether `when` counts in all steps rather than in one"""

    def at(self, step: int, total: int, past: int) -> Pieces:
        return self.before if step <= self.last(total, past) else self.after

    def last(self, total: int, past: int) -> int:
        """The last step of `before`."""
        return min(total, int((self.when - (past > 0)) * total if self.is_share else self.when - past))


@dataclass(frozen=True, eq=False)
class Turns:
    """`[a|b]`."""

    options: Sequence[Pieces]

    def at(self, step: int, total: int, past: int) -> Pieces:
        return self.options[(step - 1) % len(self.options)]


@dataclass(frozen=True, eq=False)
class Plan:
    """A text that may say something else at every step.

    Of a second pass, `past` are the steps of the first: there numbers of steps go on behind these, shares from 1 to 2.
    """

    pieces: Pieces
    changes: Sequence[Change] = ()
    has_turns: bool = False

    def at(self, step: int, total: int, past: int = 0) -> str:
        """What it says at a step, which counts from 1 to `total`."""
        words: list[str] = []
        open_pieces = [iter(self.pieces)]
        while open_pieces:
            match next(open_pieces[-1], None):
                case None:
                    open_pieces.pop()
                case str() as text:
                    words.append(text)
                case Change() | Turns() as choice:
                    open_pieces.append(iter(choice.at(step, total, past)))
                case group:
                    open_pieces.append(iter(group))
        return "".join(words)

    def ends(self, total: int, past: int = 0) -> list[int]:
        """The last step of every span that says one thing; of every single step where options take turns."""
        if self.has_turns:
            return list(range(1, total + 1))
        lasts = {change.last(total, past) for change in self.changes}
        return sorted({total, *(last for last in lasts if last >= 1)})


def default_plan(text: str) -> Plan:
    """The default syntax: Chinese punctuation too, and a `|` or a backslash that means nothing here is text."""
    plan, _ = _read(text, text.translate(FULL_WIDTH))
    return plan


def a1111_plan(text: str) -> Plan:
    """A1111's: one `|` outside of `[a|b]`, or a backslash at the end of a line, and nothing in the text is a plan."""
    plan, is_whole = _read(text, text)
    return plan if is_whole else Plan([text])


def fixed_plan(text: str) -> Plan:
    """No such marks: a text that always says the same."""
    return Plan([text])


@dataclass
class _Group:
    """What stands behind an opening bracket so far."""

    opener: str
    parts: list[list[Piece]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list[str])
    """As they are written, one fewer than parts"""
    marks: set[str] = field(default_factory=set[str])
    """Which there are, as ASCII"""

    def text(self) -> list[Piece]:
        """The group as what it was written as, where it is no plan."""
        pieces = [self.opener, *self.parts[0]]
        for separator, part in zip(self.separators, self.parts[1:], strict=True):
            pieces += [separator, *part]
        return pieces


class _Reader:
    """The open brackets of a text and what they hold."""

    def __init__(self) -> None:
        self.groups = [_Group("")]  # the first is the text itself
        self.changes: list[Change] = []
        self.has_turns = False
        self.is_whole = True  # whether A1111's grammar knows the whole text

    def add(self, text: str) -> None:
        if text:
            self.groups[-1].parts[-1].append(text)

    def mark(self, mark: str, written: str) -> None:
        match mark:
            case "(" | "[":
                self.groups.append(_Group(written))
            case ":" | "|":
                self._separate(mark, written)
            case ")" | "]":
                self._close(mark, written)
            case _:  # a backslash that hides nothing
                self.is_whole = False
                self.add(written)

    def finish(self) -> Plan:
        self._abandon()
        return Plan(self.groups[0].parts[0], self.changes, self.has_turns)

    def _separate(self, mark: str, written: str) -> None:
        group = self.groups[-1]
        if len(self.groups) == 1:
            self.is_whole &= mark == ":"
            self.add(written)
            return
        group.separators.append(written)
        group.marks.add(mark)
        group.parts.append([])

    def _close(self, mark: str, written: str) -> None:
        group = self.groups[-1]
        is_pair = len(self.groups) > 1 and group.opener.translate(FULL_WIDTH) == CLOSES[mark]
        piece = self._piece(group, mark, written) if is_pair else None
        if piece is None:
            self._abandon()
            self.add(written)
            return
        self.groups.pop()
        self.groups[-1].parts[-1].append(piece)

    def _piece(self, group: _Group, mark: str, written: str) -> "Piece | None":
        """A group whose brackets are a pair, or None where the grammar has no such group."""
        if not group.marks or (mark == ")" and group.marks == {":"} and len(group.parts) == 2):
            return [*group.text(), written]
        if mark == ")" or len(group.marks) == 2:
            return None
        if group.marks == {":"}:
            return self._change(group)
        self.has_turns = True
        return Turns(group.parts)

    def _change(self, group: _Group) -> Change | None:
        when = "".join(piece if isinstance(piece, str) else ":" for piece in group.parts[-1]).strip()
        when = when.translate(FULL_WIDTH)
        if len(group.parts) > 3 or WHEN.fullmatch(when) is None:
            return None
        before = group.parts[0] if len(group.parts) == 3 else []
        change = Change(before, group.parts[-2], _bounded(float(when)), "." in when)
        self.changes.append(change)
        return change

    def _abandon(self) -> None:
        """No open bracket will find its partner: they all are text."""
        whole, *groups = self.groups
        for group in groups:
            self.is_whole &= "|" not in group.marks
            whole.parts[0].extend(group.text())
        del self.groups[1:]


def _read(text: str, marks: str) -> tuple[Plan, bool]:
    """The plan, and whether A1111's grammar knows every mark of it.  `marks` is the text with ASCII marks."""
    if "[" not in marks:
        return Plan([text]), True
    reader = _Reader()
    position = 0
    for mark in MARK.finditer(marks):
        if len(mark[0]) == 2:  # escaped
            continue
        reader.add(text[position : mark.start()])
        reader.mark(mark[0], text[mark.start() : mark.end()])
        position = mark.end()
    reader.add(text[position:])
    return reader.finish(), reader.is_whole


def _bounded(steps: float) -> float:
    return max(-NEVER, min(NEVER, steps))
