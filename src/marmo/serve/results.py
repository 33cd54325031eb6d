"""Files by the sha256 of their bytes: finished pictures, pictures inside requests, and thumbnails beside them.

    files/ab/abcdef...            temp, fsync, rename, fsync the folder; only then may a row name it
    thumbnails/ab/abcdef....webp  made when first asked for
    unnamed/abcdef....png         what an older journal, put back from a copy, does not name

A file that no row names is an orphan of a crash.  What a write is about to name is held, so that no sweep takes it.
"""

import hashlib
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from marmo.serve.disk import Disk
from marmo.serve.headers import read_header
from marmo.serve.job import Unknown

THUMBNAIL_SIDE = 320  # pixels


class Results:
    """The files below one folder; any thread may use it."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._files, self._thumbnails, self._disk = folder / "files", folder / "thumbnails", disk
        self._unnamed = folder / "unnamed"
        self._boot = secrets.token_hex(4)
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the folder of folders."""
        self._disk.make_folder(self._files)
        self._disk.sync(self._files.parent)

    def folders(self) -> list[str]:
        """Names of the folders that files are in."""
        return sorted(self._disk.names(self._files))

    @contextmanager
    def holding(self, data: Sequence[bytes]) -> Generator[list[str]]:
        """The hashes of files that are on the disk and stay there at least until the block ends."""
        hashes = [hashlib.sha256(part).hexdigest() for part in data]
        with self._lock:
            self._held.update(hashes)
        try:
            for sha256, part in zip(hashes, data, strict=True):
                self._put(sha256, part)
            yield hashes
        finally:
            with self._lock:
                self._held.subtract(hashes)
                self._held += Counter()  # forget what is at zero

    def read(self, sha256: str) -> bytes:
        """The bytes, checked.  Raises `Unknown` where they are gone or damaged."""
        try:
            data = self._disk.read(self._path(sha256))
        except FileNotFoundError:
            raise Unknown("the picture's file is gone") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Unknown("the picture's file is damaged")
        return data

    def thumbnail(self, sha256: str) -> bytes:
        """A WebP file of at most 320 pixels a side.  Raises `Unknown`."""
        path = self._thumbnails / sha256[:2] / f"{sha256}.webp"
        try:
            return self._disk.read(path)
        except FileNotFoundError:
            data = _shrink(self.read(sha256))
        with suppress(OSError):  # the next one makes it again
            self._disk.make_folder(path.parent)
            self._write(path, data)
        return data

    def remove(self, hashes: Iterable[str]) -> None:
        """For good, but not what is held."""
        with self._lock:
            for sha256 in hashes:
                if sha256 not in self._held:
                    self._disk.remove(self._path(sha256))
                    self._disk.remove(self._thumbnails / sha256[:2] / f"{sha256}.webp")

    def sweep(self, folder: str, unused: Callable[[list[str]], list[str]], keeps: bool = False) -> None:
        """Remove what no row names, and what a killed server had begun to write, from one of `folders`.

        Args:
            keeps: whether whole files that no row names go to `unnamed`, for people to look at.
        """
        names = self._disk.names(self._files / folder)
        for name in names:
            if name.startswith(".") and not name.startswith(f".{self._boot}"):
                self._disk.remove(self._files / folder / name)
        orphans = unused([name for name in names if not name.startswith(".")])
        if keeps and orphans:
            self._put_aside(orphans)
        else:
            self.remove(orphans)

    def _put_aside(self, orphans: Iterable[str]) -> None:
        """Out of the folders that are swept, under names that viewers know; not what is held."""
        self._disk.make_folder(self._unnamed)
        with self._lock:
            for sha256 in orphans:
                if sha256 not in self._held:
                    suffix = _suffix(self._disk.read(self._path(sha256)))
                    self._disk.rename(self._path(sha256), self._unnamed / f"{sha256}{suffix}")
        self._disk.sync(self._unnamed)

    def _put(self, sha256: str, data: bytes) -> None:
        path = self._path(sha256)
        if not self._disk.exists(path.parent):
            self._disk.make_folder(path.parent)
            self._disk.sync(self._files)
        if not self._disk.exists(path):
            self._write(path, data)
        else:  # another's rename may be seen before it is on the disk
            self._disk.sync(path)
            self._disk.sync(path.parent)

    def _write(self, path: Path, data: bytes) -> None:
        """Whole or not at all."""
        temporary = path.with_name(f".{self._boot}{secrets.token_hex(8)}")
        try:
            self._disk.write(temporary, data)
            self._disk.sync(temporary)
            self._disk.rename(temporary, path)
        except OSError:
            self._disk.remove(temporary)
            raise
        self._disk.sync(path.parent)

    def _path(self, sha256: str) -> Path:
        return self._files / sha256[:2] / sha256


def _suffix(data: bytes) -> str:
    try:
        return f".{read_header(data).format.lower()}"
    except ValueError:
        return ""


def _shrink(data: bytes) -> bytes:
    """Of our own PNG; what users send is decoded elsewhere."""
    image = Image.open(BytesIO(data), formats=("PNG",)).convert("RGB")
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    stream = BytesIO()
    image.save(stream, "WEBP", quality=85)
    return stream.getvalue()
