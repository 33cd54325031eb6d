"""What a file or folder is, whether Marmo can use it, and if not, why."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from marmo.library.places import Origin
from marmo.library.scan import Candidate
from marmo.library.strangers import stranger
from marmo.pipelines.card import LatentCard
from marmo.request import Defaults
from marmo.request_parts import Schema
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.fingerprint import known_hash, sample_hash, weights_hash
from marmo.weights.kinds import Slot
from marmo.weights.licence import licence_of

Use = Literal["paint", "vae", "preview", "upscale", "evaluate", "pixels"]

ALONE: dict[tuple[Slot, ...], tuple[str, Use | None]] = {
    ("vae",): ("autoencoder", "vae"),
    ("tiny_decoder",): ("tiny decoder", "preview"),
    ("rrdb",): ("upscaler", "upscale"),
    ("srvgg",): ("upscaler", "upscale"),
    ("pixel_unet",): ("pixel diffusion", "pixels"),
    ("unet",): ("U-Net", None),
    ("text",): ("text encoder", None),
    ("clip",): ("CLIP", "evaluate"),
    ("inception",): ("Inception", "evaluate"),
    ("dinov2",): ("DINOv2", "evaluate"),
}
"""The networks of a file or folder of one network -> what it is, and what it is of use for."""

_NO_ID = re.compile(r"[^A-Za-z0-9_-]+")
ID_HASH = 8  # digits
MAX_STEM = 60  # characters


class Found(Schema):
    """A model, or what looked like one."""

    path: Path
    origin: Origin
    name: str = Field(description="What people call it; two may have the same")
    print: str = Field(description="A quick hash of its content")
    kind: str = Field(description="What it is, for people")
    family: str | None = Field(default=None, description="The kind of a whole model: sd1, sd2, sdxl, sdxl-refiner")
    use: Use | None = Field(default=None, description="What it is of use for; none is nothing, and `reason` says why")
    reason: str | None = None
    num_bytes: int
    licence: str | None = None
    defaults: Defaults | None = Field(default=None, description="Of what can paint")
    files: tuple[Path, ...] = Field(default=(), description="Its weights")

    @property
    def id(self) -> str:
        """Its name in the catalogue: letters, digits, `_`, `-` and one dot, and the same wherever the file lies."""
        return catalogue_id(self.name, self.print)

    def known_hash(self) -> str | None:
        """Its sha256, if it has been taken already."""
        return known_hash(self.files[0]) if len(self.files) == 1 else None

    def sha256(self) -> str:
        """Its sha256, see `weights_hash`; reads every byte, once."""
        return weights_hash(self.files)


def catalogue_id(name: str, content: str) -> str:
    """A name that stays: it depends on what the model is called and what it holds, not on its neighbours."""
    stem = _NO_ID.sub("-", name).strip("-")[:MAX_STEM] or "model"
    return f"{stem}.{content[:ID_HASH]}"


def identify(candidate: Candidate, judge: Callable[[Checkpoint], LatentCard]) -> Found:
    """Opens it, as far as its headers.

    Args:
        judge: makes the card of what can paint, and raises `ValueError` for what cannot.
    """
    path = candidate.path
    try:
        checkpoint = open_checkpoint(path)
    except ValueError as error:
        kind, reason = stranger(path) or ("unknown", _without(path, str(error)))
        files = (path,) if path.is_file() else ()
        return _found(candidate, files, kind=kind, reason=reason)
    if checkpoint.kind is None:
        return _alone(candidate, checkpoint)
    known: dict[str, object] = {
        "kind": checkpoint.kind.title,
        "family": checkpoint.kind.name,
        "licence": licence_of(checkpoint),
    }
    try:
        card = judge(checkpoint)
    except ValueError as error:
        return _found(candidate, checkpoint.files, **known, reason=_without(path, str(error)))
    return _found(candidate, checkpoint.files, **known, use="paint", defaults=card.defaults)


def _alone(candidate: Candidate, checkpoint: Checkpoint) -> Found:
    """One network."""
    kind, use = ALONE.get(tuple(checkpoint.parts), (" and ".join(checkpoint.parts), None))
    reason = None if use else f"one network, a {kind}, which cannot paint without the others"
    return _found(candidate, checkpoint.files, kind=kind, use=use, reason=reason, licence=licence_of(checkpoint))


def _found(candidate: Candidate, files: Iterable[Path], **said: object) -> Found:
    weights = tuple(files)
    return Found.model_validate(
        {
            "path": candidate.path,
            "origin": candidate.origin,
            "name": candidate.name,
            "files": weights,
            "print": sample_hash(weights),
            "num_bytes": sum(file.stat().st_size for file in weights),
            **said,
        }
    )


def _without(path: Path, sentence: str) -> str:
    """The sentence about a path, without the path."""
    return sentence.replace(f"{path}: ", "").replace(f"{path} ", "it ").replace(f"{path}", "it")
