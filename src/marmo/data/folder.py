"""A folder of pictures with their captions: `fox.png` beside `fox.txt`, or a `metadata.jsonl` that names both.

`metadata.jsonl` is the layout of Hugging Face's examples, one object a line with `file_name` and `text`; where a folder
has one, it decides which pictures of that folder belong to the collection.  Folders are searched to any depth.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from marmo.data.item import Item
from marmo.files.pictures import FORMATS

METADATA = "metadata.jsonl"
SUFFIXES = (*FORMATS, ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl")
"""Pictures, also those that cannot be read: a report shall name them."""


@dataclass(frozen=True)
class _Entry:
    name: str
    picture: Path | None
    caption: str | None = None
    """The caption if it is known already; else it lies beside the picture."""
    fault: str = ""


class Folder:
    """The pictures below a folder, by name."""

    def __init__(self, path: Path, caption_suffix: str = ".txt") -> None:
        self.path, self.caption_suffix = path, caption_suffix
        folders = sorted({path, *(folder for folder in path.rglob("*") if folder.is_dir())})
        self.entries = [entry for folder in folders for entry in self._list(folder)]
        if not self.entries:
            raise ValueError(f"{path} holds no pictures: none ends in {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """The path below the folder."""
        return self.entries[index].name

    def item(self, index: int) -> Item:
        """The bytes of a picture and its caption."""
        entry = self.entries[index]
        if entry.picture is None:
            raise ValueError(entry.fault)
        try:
            caption = self._caption(entry.picture) if entry.caption is None else entry.caption.encode()
            return Item(entry.name, entry.picture.read_bytes(), caption)
        except (OSError, UnicodeEncodeError) as error:
            raise ValueError(f"it cannot be read: {error}") from None

    def _caption(self, picture: Path) -> bytes | None:
        path = picture.with_suffix(self.caption_suffix)
        return path.read_bytes() if path.is_file() else None

    def _list(self, folder: Path) -> Iterator[_Entry]:
        metadata = folder / METADATA
        if metadata.is_file():
            for number, line in enumerate(metadata.read_bytes().splitlines(), start=1):
                if line.strip():
                    yield self._described(metadata, number, line)
            return
        for picture in sorted(folder.iterdir()):
            if picture.suffix.lower() in SUFFIXES and picture.is_file():
                yield _Entry(self._name(picture), picture)

    def _described(self, metadata: Path, number: int, line: bytes) -> _Entry:
        """The entry that one line of a metadata file describes."""
        place = f"{self._name(metadata)}:{number}"
        try:
            row = cast(dict[str, object], json.loads(line))
            name, text = row["file_name"], row.get("text", row.get("caption"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _Entry(place, None, fault="this line is no JSON object with a file_name")
        if not isinstance(name, str) or not isinstance(text, str | None):
            return _Entry(place, None, fault="file_name and text must be text")
        picture = (metadata.parent / name).resolve()
        if not picture.is_relative_to(self.path.resolve()):
            return _Entry(place, None, fault=f"{name!r} lies outside the folder")
        return _Entry(self._name(metadata.parent / name), picture, text or "")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()
