"""Reads `corrections.txt`: which concepts are left out, and which get better words than CLDR's."""

from dataclasses import dataclass
from pathlib import Path

FLAGS = "utocfs"


@dataclass(frozen=True)
class Correction:
    """One line; an empty field changes nothing."""

    en: str = ""
    zh: str = ""
    measure: str = ""
    flags: str = ""
    also_en: tuple[str, ...] = ()
    also_zh: tuple[str, ...] = ()


def read_corrections() -> dict[str, Correction | None]:
    """By CLDR's English short name; None is left out.  Raises `ValueError` for a line that means nothing."""
    found: dict[str, Correction | None] = {}
    text = Path(__file__).with_name("corrections.txt").read_text("utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if line and not line.startswith(("#", "~")):
            name, correction = _parse(line, number)
            if name in found:
                raise ValueError(f"corrections.txt, line {number}: {name!r} stands there twice")
            found[name] = correction
    return found


def read_false_synonyms() -> set[str]:
    """Keywords that CLDR has and that are no other name for their concept."""
    text = Path(__file__).with_name("corrections.txt").read_text("utf-8")
    return {word for line in text.splitlines() if line.startswith("~ ") for word in _split(line[2:])}


def _parse(line: str, number: int) -> tuple[str, Correction | None]:
    if line.startswith("- "):
        return line[2:].strip(), None
    name, *fields = (field.strip() for field in line.split("|"))
    if not 1 <= len(fields) <= 6:
        raise ValueError(f"corrections.txt, line {number}: 2 to 7 fields, not {len(fields) + 1}")
    en, zh, measure, flags, also_en, also_zh = fields + [""] * (6 - len(fields))
    if not set(flags) <= set(FLAGS):
        raise ValueError(f"corrections.txt, line {number}: flags are letters of {FLAGS!r}, not {flags!r}")
    return name, Correction(en, zh, measure, flags, _split(also_en), _split(also_zh))


def _split(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
