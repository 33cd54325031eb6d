"""What a model's files say beside its weights: a single file's metadata; a folder's marmo.json and concepts.txt.

    marmo.json        "license": "apache-2.0", "marmo.defaults": {"steps": 14, ...}, ...
    concepts.txt      an id per line: what the model knows, where it was trained on scenes of chosen concepts

In a single file's metadata all values are text, so an object stands there as JSON, and the list under `marmo.concepts`.
Other programs pass both files over.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from marmo.files.atomic import atomic_write
from marmo.weights.store import MAX_HEADER, Json, blaming, map_file, parse_json

NOTES_FILE = "marmo.json"
CONCEPTS_FILE = "concepts.txt"
CONCEPTS_KEY = "marmo.concepts"


def read_notes(folder: Path) -> dict[str, str]:
    """What a folder says, as a single file's metadata would say it; `ValueError` for what cannot be read."""
    notes, concepts = folder / NOTES_FILE, folder / CONCEPTS_FILE
    said = {key: _as_text(value) for key, value in _object(notes).items()} if notes.is_file() else {}
    return said | ({CONCEPTS_KEY: _text(concepts)} if concepts.is_file() else {})


def write_notes(folder: Path, notes: Mapping[str, str]) -> None:
    """The files that `read_notes` reads; none where there is nothing to say."""
    said = {key: _as_json(text) for key, text in notes.items() if key != CONCEPTS_KEY}
    if said:
        text = json.dumps(said, indent=2, ensure_ascii=False)
        _write(folder / NOTES_FILE, f"{text}\n")
    if notes.get(CONCEPTS_KEY):
        _write(folder / CONCEPTS_FILE, notes[CONCEPTS_KEY])


def concepts_in(notes: Mapping[str, str]) -> tuple[str, ...]:
    """The ids of what the model knows, in the list's order; what follows a # is for people.  None: nothing is said."""
    lines = notes.get(CONCEPTS_KEY, "").splitlines()
    return tuple(id for line in lines if (id := line.partition("#")[0].strip()))


def _object(path: Path) -> dict[str, Json]:
    with blaming(path):
        return parse_json(map_file(path)[: MAX_HEADER + 1])


def _text(path: Path) -> str:
    with blaming(path):
        return map_file(path)[: MAX_HEADER + 1].decode()


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _as_json(text: str) -> Json:
    """What stands for an object as the object, where that gives the same text again."""
    try:
        value = json.loads(text) if text.startswith("{") else text
    except (ValueError, RecursionError):
        return text
    return value if _as_text(value) == text else text


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())
