"""Packages in, asset files out: chooses the concepts, looks at every drawing, packs the result."""

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from marmo.data.assets.names import Entry, choose
from marmo.data.assets.sources import SOURCES, read
from marmo.data.drawing import measure

VERSION = "scenes-v2"


class Icon(TypedDict, total=False):
    """A drawing of an iconify set."""

    body: str
    width: float


class IconSet(TypedDict):
    """An iconify package."""

    icons: dict[str, Icon]
    aliases: dict[str, dict[str, str]]
    width: float


Bodies = dict[str, tuple[str, float]]
"""Code points -> SVG body and the side of its plane."""


def build(folder: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files by name, and how many items of each package are in them."""
    sets = {source.style: _bodies(folder, source.package) for source in SOURCES if source.style}
    drawn = set[str].intersection(*(set(bodies) for bodies in sets.values()))
    entries = choose(folder, drawn)
    counts = {source.package: len(entries) for source in SOURCES} | {"concepts": len(entries)}
    manifest = [
        {"package": s.package, "version": s.version, "licence": s.licence, "author": s.author, "count": len(entries)}
        for s in SOURCES
    ]
    concepts = {
        "version": VERSION,
        "manifest": manifest,
        "concepts": [
            _record(entry, {style: bodies[entry.code] for style, bodies in sets.items()}) for entry in entries
        ],
    }
    drawings = {style: {entry.id: bodies[entry.code][0] for entry in entries} for style, bodies in sets.items()}
    return {"concepts.json.gz": _pack(concepts), "drawings.json.gz": _pack(drawings)}, counts


def _bodies(folder: Path, package: str) -> Bodies:
    icons = cast(IconSet, read(folder, package, "icons.json"))
    chars = cast("dict[str, str]", read(folder, package, "chars.json"))
    bodies: Bodies = {}
    for code, name in sorted(chars.items()):
        alias = icons["aliases"].get(name)
        if alias is not None and set(alias) != {"parent"}:
            continue  # turned or mirrored: none that we keep
        icon = icons["icons"].get(alias["parent"] if alias else name)
        if icon is not None:
            plain = "-".join(part for part in code.lower().split("-") if part != "fe0f")
            bodies.setdefault(plain, (_short(icon.get("body", "")), icon.get("width", icons["width"])))
    return bodies


def _short(body: str) -> str:
    """Names inside a drawing need not be told apart from those of others, since each is rendered alone."""
    return re.sub(r"\bsvgID", "i", body)


def _record(entry: Entry, bodies: Mapping[str, tuple[str, float]]) -> dict[str, object]:
    fixed = "c" in entry.flags
    looks: dict[str, object] = {}
    for style, (body, side) in bodies.items():
        seen = measure(body, side)
        colour = None if fixed else seen.colour
        looks[style] = {"box": seen.box, "size": seen.size, "colour": colour, "tone": seen.tone}
    return {
        "id": entry.id,
        "code": entry.code,
        "group": entry.subgroup,
        "en": [entry.en, *entry.also_en],
        "zh": [entry.zh, *entry.also_zh],
        "measure": entry.measure,
        "flags": entry.flags,
        "looks": looks,
    }


def _pack(data: object) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)
