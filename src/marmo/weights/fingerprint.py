"""The sha256 of weight files, remembered from run to run: a file is hashed again only when its size or time changes."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from marmo.files.atomic import atomic_write
from marmo.weights.store import sha256

SAMPLES = 8
SAMPLE_BYTES = 1 << 12


def file_hash(path: Path) -> str:
    """The file's sha256 in hex.  A cache that cannot be read or written only costs time."""
    stamp, known = _stamp(path), _read()
    if stamp not in known:
        known[stamp] = sha256(path)
        _write(known)
    return known[stamp]


def sample_hash(paths: Sequence[Path]) -> str:
    """A hash of the files' sizes and of some of their bytes, in hex: quick, and other weights give another one.

    It tells files apart that nobody forged; to be sure of what they hold, take their `file_hash`.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for sample in range(SAMPLES + 1):
                file.seek(max(size - SAMPLE_BYTES, 0) * sample // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def weights_hash(paths: Sequence[Path]) -> str:
    """The sha256 of a model's weights: that of its file, or of the list of its files' hashes where it has several."""
    hashes = [file_hash(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def known_hash(path: Path) -> str | None:
    """The file's sha256, if it was taken before."""
    return _read().get(_stamp(path))


def find_files(digest: str) -> list[Path]:
    """The files whose hash was taken on this machine and that have not changed since."""
    found = [(stamp, Path(stamp.rsplit(":", 2)[0])) for stamp, known in _read().items() if known == digest]
    return [path for stamp, path in found if path.is_file() and _stamp(path) == stamp]


def cache_folder() -> Path:
    """$MARMO_CACHE, else marmo in the user's cache folder."""
    if chosen := os.environ.get("MARMO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marmo"


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.absolute()}:{status.st_size}:{status.st_mtime_ns}"


def _read() -> dict[str, str]:
    """`path:size:time` -> sha256"""
    try:
        known = json.loads((cache_folder() / "hashes.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = cast(dict[str, object], known) if isinstance(known, dict) else {}
    return {stamp: digest for stamp, digest in entries.items() if isinstance(digest, str)}


def _write(known: dict[str, str]) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with atomic_write(cache_folder() / "hashes.json") as file:
            file.write(json.dumps(known, indent=0).encode())
    except OSError:
        return
