"""A data set that Hugging Face's `datasets` saved to disk, read by that library, which is not part of Marmo."""

import importlib
import threading
from pathlib import Path
from typing import Any

from marmo.data.item import Item

PICTURE_COLUMNS = ("image", "jpg", "png", "webp", "picture")
CAPTION_COLUMNS = ("text", "caption", "txt")


class Arrow:
    """The rows of a `Dataset.save_to_disk` folder."""

    def __init__(self, path: Path) -> None:
        library = _library(path)
        rows: Any = library.load_from_disk(str(path))
        if isinstance(rows, dict):
            raise ValueError(f"{path} holds several splits: {', '.join(rows)}; give the folder of one")  # pyright: ignore[reportUnknownArgumentType]
        self.path, self.lock = path, threading.Lock()
        self.picture = _column(path, rows.column_names, PICTURE_COLUMNS)
        self.caption = _column(path, rows.column_names, CAPTION_COLUMNS)
        self.rows: Any = rows.cast_column(self.picture, library.Image(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The row's number."""
        return f"{self.path.name}:{index}"

    def item(self, index: int) -> Item:
        """The bytes of a picture and its caption."""
        with self.lock:
            row: dict[str, Any] = self.rows[index]
        picture, caption = row[self.picture], row[self.caption]
        try:
            data: bytes = picture["bytes"] or self._inside(picture["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise ValueError(f"it has no picture: {error}") from None
        return Item(self.name(index), data, None if caption is None else str(caption).encode(errors="surrogatepass"))

    def _inside(self, path: str) -> Path:
        """The file that a row names, if it lies in the dataset's folder: a stranger's dataset reads nothing else."""
        file = (self.path / path).resolve()
        if not file.is_relative_to(self.path.resolve()):
            raise ValueError(f"its picture {path} lies outside the dataset's folder")
        return file


def _library(path: Path) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise ValueError(
            f"{path} was saved by Hugging Face's datasets, which reads it: `pip install datasets`"
        ) from None


def _column(path: Path, names: list[str], known: tuple[str, ...]) -> str:
    for name in known:
        if name in names:
            return name
    raise ValueError(f"{path} has the columns {', '.join(names)}; none of them is called {' or '.join(known)}")
