"""Prompts that leave something to chance: `{a|b}` and `__name__`, drawn by a seed before anything is painted.

    {red|green|blue}           one of them
    {3::red|green}             red three times as often
    {2$$red|green|blue}        two of them, joined by ", "; {1-2$$...} one or two; {2$$ and $$...} joined by " and "
    __animal__                 a line of animal.txt in a folder of wildcards; __zoo/*__ a line of any file in zoo

All of these may stand inside one another, and in the lines of the files.  A `|` inside square brackets is the prompt
language's own.  Braces without a `|` or `$$` are plain text, and so is what follows a backslash.  The same template,
seed and files give the same prompt on every machine.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

MAX_DEPTH = 20
MAX_DRAWS = 10_000
MAX_LENGTH = 100_000  # characters, as many as a request's prompt may have
MAX_FILE = 1 << 24  # bytes

_NAME = re.compile(r"__([\w*./-]+?)__(?!_)")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")
_COUNT = re.compile(r"\s*(\d{1,3})?\s*(-)?\s*(\d{1,3})?\s*\$\$")
_MARKS = re.compile(r"[\\{}|\[\]]")


@dataclass(frozen=True)
class Wildcards:
    """Folders of text files, a choice per line; of two files of one name the first folder's counts."""

    folders: Sequence[Path] = ()

    def lines(self, name: str) -> list[str]:
        """The choices of a name, which may hold `*`; `ValueError`, naming what there is, for a name without any."""
        files = {known: file for known, file in self._files().items() if fnmatchcase(known, name)}
        lines = [line for file in files.values() for line in _lines(file)]
        if not lines:
            where = ", ".join(map(str, self.folders)) or "no folder, since none is named in the settings"
            raise ValueError(f"__{name}__ stands for a line of {name}.txt, and there is none in {where}")
        return lines

    def _files(self) -> Mapping[str, Path]:
        """Name -> file, in the order of the names."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for file in sorted(folder.rglob("*.txt")):
                found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
        return found


@dataclass
class _Draw:
    """One drawing: the dice, and how much has been asked of them."""

    wildcards: Wildcards
    dice: random.Random
    known: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    draws: int = 0

    def text(self, template: str, depth: int = 0) -> str:
        """The template with every choice in it made."""
        if depth > MAX_DEPTH:
            raise ValueError(
                f"choices stand inside one another more than {MAX_DEPTH} deep; does a wildcard name itself?"
            )
        result = "".join(self._piece(piece, depth) for piece in _pieces(template))
        if len(result) > MAX_LENGTH:
            raise ValueError(f"the prompt grows beyond {MAX_LENGTH} characters when its choices are made")
        return result

    def _piece(self, piece: "str | _Group | _Name", depth: int) -> str:
        match piece:
            case str():
                return piece
            case _Name(name):
                if name not in self.known:
                    self.known[name] = self.wildcards.lines(name)
                return self.text(self._pick(self.known[name], 1)[0], depth + 1)
            case _Group(options, low, high, separator):
                count = low + int(self._roll() * (high - low + 1)) if high > low else low
                return separator.join(self.text(option, depth + 1) for option in self._pick(options, count))

    def _pick(self, options: Sequence[str], count: int) -> list[str]:
        """Some of the options, none twice, by their weights."""
        left = [_weighted(option) for option in options]
        picked: list[str] = []
        for _ in range(min(count, len(left))):
            mark = self._roll() * sum(weight for weight, _ in left)
            index = 0
            while index < len(left) - 1 and mark >= left[index][0]:
                mark -= left[index][0]
                index += 1
            picked.append(left.pop(index)[1])
        return picked

    def _roll(self) -> float:
        self.draws += 1
        if self.draws > MAX_DRAWS:
            raise ValueError(f"the prompt asks for more than {MAX_DRAWS} choices")
        return self.dice.random()


@dataclass(frozen=True)
class _Name:
    """`__name__`"""

    name: str


@dataclass(frozen=True)
class _Group:
    """`{...}`"""

    options: tuple[str, ...]
    low: int
    high: int
    separator: str


def draw(template: str, seed: int, wildcards: Wildcards, stream: str = "prompt") -> str:
    """The prompt that a template becomes; `ValueError` for a wildcard that does not exist, and for what has no end.

    Args:
        stream: the prompt and the negative prompt roll dice of their own.
    """
    return _Draw(wildcards, random.Random(f"{stream} {seed}")).text(template)


def has_choices(template: str) -> bool:
    """Whether a prompt leaves anything open."""
    return any(not isinstance(piece, str) for piece in _pieces(template))


def _pieces(template: str) -> Iterator[str | _Group | _Name]:
    """The outermost choices, and the text between them."""
    start = position = 0
    ends = _partners(template)
    while position < len(template):
        name = _NAME.match(template, position)
        if name is not None:
            yield template[start:position]
            yield _Name(name[1])
            start = position = name.end()
        elif template[position] == "\\" and template[position + 1 : position + 2] in ("{", "}", "|"):
            yield template[start:position]
            start, position = position + 1, position + 2
        elif position in ends and (group := _group(template[position + 1 : ends[position]])) is not None:
            yield template[start:position]
            yield group
            start = position = ends[position] + 1
        else:
            position += 1
    yield template[start:]


def _partners(template: str) -> Mapping[int, int]:
    """Where each brace that is closed begins -> where it ends."""
    open_ones, found, escaped = list[int](), dict[int, int](), -1
    for mark in _MARKS.finditer(template):
        if mark.start() == escaped:
            continue
        if mark[0] == "\\":
            escaped = mark.start() + 1
        elif mark[0] == "{":
            open_ones.append(mark.start())
        elif mark[0] == "}" and open_ones:
            found[open_ones.pop()] = mark.start()
    return found


def _group(inside: str) -> _Group | None:
    """What stands between two braces; none if it is plain text."""
    count = _COUNT.match(inside)
    rest = inside[count.end() :] if count else inside
    separator, options = ", ", _options(rest)
    if count is not None and "$$" in rest:
        separator, _, rest = rest.partition("$$")
        options = _options(rest)
    if count is None:
        return _Group(options, 1, 1, separator) if len(options) > 1 else None
    first, dash, last = count.groups()
    low = int(first) if first else 0 if dash else 1
    high = (int(last) if last else len(options)) if dash else low
    return _Group(options, min(low, high), max(low, high), separator)


def _options(text: str) -> tuple[str, ...]:
    """Split at each `|` that stands in no other brackets."""
    options, start, depth, escaped = list[str](), 0, 0, -1
    for mark in _MARKS.finditer(text):
        if mark.start() == escaped:
            continue
        if mark[0] == "\\":
            escaped = mark.start() + 1
        elif mark[0] in "{[":
            depth += 1
        elif mark[0] in "}]":
            depth = max(depth - 1, 0)
        elif mark[0] == "|" and not depth:
            options.append(text[start : mark.start()])
            start = mark.end()
    return (*options, text[start:])


def _weighted(option: str) -> tuple[float, str]:
    weight = _WEIGHT.match(option)
    return (float(weight[1]), option[weight.end() :]) if weight else (1.0, option)


def _lines(file: Path) -> list[str]:
    """Without empty lines and comments."""
    if file.stat().st_size > MAX_FILE:
        raise ValueError(f"{file} has more than {MAX_FILE} bytes, too many for a wildcard")
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
