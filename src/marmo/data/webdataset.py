"""Tars in the layout of webdataset and img2dataset: members `key.jpg`, `key.txt`, `key.json` follow each other.

The headers are read once when a tar is opened; then any entry is one read at a known place, so the order is ours, a
resumed run needs no skipping, and threads do not wait for each other.
"""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

from marmo.data.item import Item
from marmo.files.pictures import FORMATS

PICTURES = tuple(suffix.removeprefix(".") for suffix in FORMATS)


@dataclass
class _Entry:
    tar: Path
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Extension -> first byte, number of bytes."""
    fault: str = ""


class Tars:
    """The entries of some tars, one tar after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.entries = [entry for path in paths for entry in _index(path)]
        if not self.entries:
            raise ValueError(f"{', '.join(map(str, paths)) or 'no tar'} holds no entries")

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """The tar's name and the entry's key."""
        entry = self.entries[index]
        return f"{entry.tar.name}:{entry.key}"

    def item(self, index: int) -> Item:
        """The bytes of a picture and its caption: the .txt, else `caption` or `text` of the .json."""
        entry = self.entries[index]
        picture = next((name for name in PICTURES if name in entry.members), None)
        if entry.fault or picture is None:
            raise ValueError(entry.fault or f"none of its members ends in {', '.join(PICTURES)}")
        try:
            return Item(self.name(index), _read(entry, picture), _caption(entry))
        except OSError as error:
            raise ValueError(f"it cannot be read: {error}") from None


def _index(path: Path) -> list[_Entry]:
    """The entries of a tar in its order; where it is cut off, those before and one that says so."""
    entries: dict[str, _Entry] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            size = path.stat().st_size
            for member in tar:
                if member.isfile():
                    _add(entries, path, member, size)
    except (tarfile.TarError, OSError) as error:
        entries["(end)"] = _Entry(path, "(end)", fault=f"the tar cannot be read from here on: {error}")
    return list(entries.values())


def _add(entries: dict[str, _Entry], path: Path, member: tarfile.TarInfo, size: int) -> None:
    """webdataset's rule: the key ends at the first dot of the name without its folders."""
    name = PurePosixPath(member.name)
    stem, _, extension = name.name.partition(".")
    key = str(name.with_name(stem)) if stem else str(name)
    entry = entries.setdefault(key, _Entry(path, key))
    entry.members[extension.lower()] = member.offset_data, member.size
    if member.offset_data + member.size > size:
        entry.fault = "the tar is cut off within it"


def _read(entry: _Entry, extension: str) -> bytes:
    first, count = entry.members[extension]
    with entry.tar.open("rb") as file:
        file.seek(first)
        return file.read(count)


def _caption(entry: _Entry) -> bytes | None:
    if "txt" in entry.members:
        return _read(entry, "txt")
    if "json" not in entry.members:
        return None
    try:
        facts = cast(dict[str, object], json.loads(_read(entry, "json")))
        text = facts.get("caption", facts.get("text"))
    except (ValueError, AttributeError, RecursionError):
        return None
    return text.encode(errors="surrogatepass") if isinstance(text, str) else None
