"""All models at hand, and the one that a name means."""

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from marmo.files.settings import read_settings
from marmo.library.identify import ID_HASH, Found, catalogue_id, identify
from marmo.library.memory import remembered
from marmo.library.places import places
from marmo.library.scan import SUFFIXES, Candidate, candidates
from marmo.pipelines.card import LatentCard
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.fingerprint import sample_hash

_ID = re.compile(rf"[A-Za-z0-9_-]+\.[0-9a-f]{{{ID_HASH}}}")


def models(judge: Callable[[Checkpoint], LatentCard], folders: Sequence[Path] = ()) -> Iterator[Found]:
    """Everything that lies in the known places, identified one by one.  Of the hub's cache, only what is of use.

    Args:
        judge: see `identify`.
        folders: to look through beside those of the settings.
    """
    things = candidates(places(read_settings(), folders))
    for found in remembered(things, lambda candidate: identify(candidate, judge)):
        if found.use is not None or found.origin != "hub":
            yield found


def locate(name: str, folders: Sequence[Path] = ()) -> Path | None:
    """Where the model lies that has this id, short name, or file name in any of the places; none if there is none.

    Raises `ValueError` for a name that several different models have.
    """
    named = [candidate for candidate in candidates(places(read_settings(), folders)) if _may_be(candidate, name)]
    if not named:
        return None
    ids = {candidate: _id(candidate) for candidate in named} if len(named) > 1 or _ID.fullmatch(name) else {}
    meant = [candidate for candidate in named if ids.get(candidate) == name] or [
        candidate for candidate in named if _is_called(candidate, name)
    ]
    if len({ids.get(candidate) for candidate in meant}) > 1:
        choice = ", ".join(f"{ids[candidate]} ({candidate.path})" for candidate in meant)
        raise ValueError(f"several models are called {name}; say which: {choice}")
    return meant[0].path if meant else None


def nearest(name: str, folders: Sequence[Path] = ()) -> list[str]:
    """Names that exist and look like this one."""
    known = {candidate.name for candidate in candidates(places(read_settings(), folders))}
    return get_close_matches(name, sorted(known), n=3)


def _is_called(candidate: Candidate, name: str) -> bool:
    return name.casefold() in (candidate.name.casefold(), candidate.path.name.casefold())


def _may_be(candidate: Candidate, name: str) -> bool:
    """By its name alone."""
    if _is_called(candidate, name):
        return True
    return _ID.fullmatch(name) is not None and catalogue_id(candidate.name, name[-ID_HASH:]) == name


def _id(candidate: Candidate) -> str:
    return catalogue_id(candidate.name, sample_hash(_weights(candidate.path)))


def _weights(path: Path) -> tuple[Path, ...]:
    """The weight files, as `identify` sees them."""
    try:
        return open_checkpoint(path).files
    except ValueError:
        return (path,) if path.is_file() else ()


def looks_like_path(name: str) -> bool:
    """Whether somebody who writes this means a file or folder and no model's name."""
    return name.startswith((".", "~")) or Path(name).is_absolute() or Path(name).suffix in SUFFIXES
