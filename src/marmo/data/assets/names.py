"""Which emoji become concepts, and what they are called in both languages."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, cast

from marmo.data.assets.corrections import Correction, read_corrections, read_false_synonyms
from marmo.data.assets.sources import read
from marmo.data.colours import COLOURS
from marmo.data.shapes import SHAPES

LEFT_OUT_GROUPS = {"flags", "symbols", "component"}
LEFT_OUT_SUBGROUPS = re.compile(r"^hand-|^hands$|^family|gestures-none|^country|^keycap|^arrow|alphanum")
LEFT_OUT_NAMES = re.compile(
    r"o’clock|-thirty$|^(man|woman|men|women) (?!dancing)|: (man|woman)|facing right|^pregnant (man|person)"
)

MEASURES = {
    "animal-mammal": "只",
    "animal-bird": "只",
    "animal-amphibian": "只",
    "animal-reptile": "只",
    "animal-marine": "只",
    "animal-bug": "只",
    "plant-flower": "朵",
    "plant-other": "株",
    "dishware": "个",
    "transport-ground": "辆",
    "transport-water": "艘",
    "place-building": "座",
    "place-religious": "座",
    "place-other": "座",
    "clothing": "件",
    "cat-face": "张",
}
"""By subgroup; any other takes 个.  The exceptions are in `corrections.txt`."""

MIRRORED_SUBGROUPS = re.compile(r"^animal|^food|^drink|^transport|^plant|^person|^clothing|^dishware|^tool|^music")


class Annotation(TypedDict):
    """CLDR's words for one emoji."""

    tts: list[str]
    default: list[str]


@dataclass(frozen=True)
class Entry:
    """A concept before its drawings are looked at."""

    name: str
    """CLDR's English short name."""
    code: str
    """Code points in hex, without variation selectors: the key of iconify's tables."""
    subgroup: str
    en: str
    zh: str
    measure: str
    flags: str
    also_en: tuple[str, ...]
    also_zh: tuple[str, ...]

    @property
    def id(self) -> str:
        """The English slug."""
        return re.sub(r"[^a-z0-9]+", "-", self.en.lower().replace("’", "").replace("ñ", "n")).strip("-")


def choose(folder: Path, drawn: set[str]) -> list[Entry]:
    """The concepts, in Unicode's order: those in `drawn` with words in both languages, less what is left out."""
    corrections = read_corrections()
    english, chinese = _words(folder, "en"), _words(folder, "zh")
    used: set[str] = set()
    entries: list[Entry] = []
    for text, code, group, subgroup in _emoji(folder):
        if code not in drawn or text not in english or text not in chinese:
            continue
        name = english[text]["tts"][0]
        used.add(name)
        default = None if _is_left_out(name, group, subgroup) else Correction()
        correction = corrections.get(name, default)
        if correction is not None:
            entries.append(_entry(name, code, subgroup, chinese[text], correction))
    _refuse(set(corrections) - used, "corrections.txt names what no emoji is called")
    _refuse(_repeated(entry.id for entry in entries), "several concepts would have the same English name")
    _refuse(_repeated(entry.zh for entry in entries), "several concepts would have the same Chinese name")
    return _with_own_synonyms(entries)


def _emoji(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(text, code, group, subgroup) in Unicode's order."""
    table = cast("list[dict[str, object]]", read(folder, "emojibase-data", "en/data.json"))
    meta = cast("dict[str, dict[str, str]]", read(folder, "emojibase-data", "meta/groups.json"))
    for row in sorted((row for row in table if "group" in row), key=lambda row: cast(int, row["order"])):
        code = "-".join(part for part in str(row["hexcode"]).lower().split("-") if part != "fe0f")
        text = "".join(chr(int(part, 16)) for part in code.split("-"))
        yield text, code, meta["groups"][str(row["group"])], meta["subgroups"][str(row["subgroup"])]


def _words(folder: Path, language: str) -> dict[str, Annotation]:
    words: dict[str, Annotation] = {}
    for package, kind in (
        ("cldr-annotations-derived-full", "annotationsDerived"),
        ("cldr-annotations-full", "annotations"),
    ):
        data = cast(
            "dict[str, dict[str, dict[str, Annotation]]]", read(folder, package, f"{kind}/{language}/annotations.json")
        )
        words |= {text: entry for text, entry in data[kind]["annotations"].items() if "tts" in entry}
    return words


def _is_left_out(name: str, group: str, subgroup: str) -> bool:
    """By kind; a line in `corrections.txt` with better words brings a concept back."""
    return group in LEFT_OUT_GROUPS or bool(LEFT_OUT_SUBGROUPS.search(subgroup)) or bool(LEFT_OUT_NAMES.search(name))


def _entry(name: str, code: str, subgroup: str, chinese: Annotation, correction: Correction) -> Entry:
    zh = correction.zh or chinese["tts"][0]
    also_zh = correction.also_zh or tuple(_same_kind(zh, chinese))
    flags = correction.flags
    en = correction.en or name
    if set(re.findall(r"\w+", en)) & set(COLOURS) or subgroup.startswith("person"):
        flags += "c"
    if not MIRRORED_SUBGROUPS.search(subgroup):
        flags += "f"
    measure = correction.measure or MEASURES.get(subgroup, "个")
    return Entry(name, code, subgroup, en, zh, measure, "".join(sorted(set(flags))), correction.also_en, also_zh)


def _same_kind(zh: str, chinese: Annotation) -> Iterator[str]:
    """Keywords that name the thing itself: Chinese puts the head last, so they end as the name does."""
    return (word for word in chinese["default"] if len(word) > 1 and word[-1] == zh[-1] and word != zh)


def _with_own_synonyms(entries: list[Entry]) -> list[Entry]:
    """A synonym that another concept also has, or is, tells nobody which one is meant."""
    false = read_false_synonyms()
    words = Counter(word for entry in entries for word in {entry.zh, *entry.also_zh})
    names = Counter(word for entry in entries for word in {entry.en, *entry.also_en})
    words.update(shape.zh for shape in SHAPES.values())
    names.update(shape.en for shape in SHAPES.values())
    return [
        replace(
            entry,
            also_en=tuple(word for word in entry.also_en if names[word] == 1 and word != entry.en),
            also_zh=tuple(
                word for word in entry.also_zh if words[word] == 1 and word != entry.zh and word not in false
            ),
        )
        for entry in entries
    ]


def _repeated(names: Iterator[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def _refuse(names: set[str], why: str) -> None:
    if names:
        raise ValueError(f"{why}: {', '.join(sorted(names))}")
