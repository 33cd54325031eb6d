"""What the queue tells about its jobs: their states, events and pictures, and why it would not take one.

    queued -> running -> succeeded | failed | cancelled | quarantined
       ^---------'  parked when the server closes, or its worker died

Plain data without a file, a database or a loop, for routes and dialects alike.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Generic, Literal, TypeVar

from marmo.request import ImageRequest

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "quarantined"]

ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "quarantined"})
"""States that nothing leaves."""

EventKind = Literal[
    "queued", "position", "started", "stage", "step", "preview", "parked", "succeeded", "failed", "cancelled",
    "quarantined",
]  # fmt: skip

LASTING: frozenset[EventKind] = frozenset(
    {"queued", "started", "parked", "succeeded", "failed", "cancelled", "quarantined"}
)
"""Events that are in the journal.  Of the others only the newest of its kind is kept, and only in memory."""

MAX_PRIORITY = 2
"""Priorities go from -2 to 2: interactive work has 1, work in the background -1."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was when it was asked for."""

    id: str
    owner: str
    state: State
    request: ImageRequest
    """Resolved.  A picture inside it is empty bytes; its hash is in `inputs`."""
    inputs: Mapping[str, str]
    """Place in the request, such as `init_image`, -> sha256 of the picture's file."""
    priority: int
    attempt: int
    """How often it was begun."""
    crashes: int
    """How often it was in hand when a worker died; the third is the last."""
    created: float
    """Unix time, as are `started` and `finished`."""
    started: float | None = None
    finished: float | None = None
    images: tuple[str, ...] = ()
    """Ids of its pictures, in order, without those that are gone for ever."""
    notes: tuple[str, ...] = ()
    code: str | None = None
    """Why it failed: request, model, memory, internal or crash."""
    message: str | None = None
    position: int | None = None
    """How many jobs are before it, while it is queued."""
    seconds_left: float | None = None
    """Until its end, as far as measured speeds can tell."""
    stage: str | None = None
    """loading, encoding, painting or decoding, while it runs."""
    step: int = 0
    """Steps behind it."""
    steps: int = 0
    """Steps of this attempt in all; 0 before the first is done."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One thing that happened to a job; which fields are filled depends on `kind`."""

    seq: int
    """Rises within a job, also across restarts of the server; it fits a JavaScript number."""
    job: str
    kind: EventKind
    time: float
    """Unix time."""
    attempt: int = 0
    position: int | None = None
    seconds_left: float | None = None
    stage: str | None = None
    index: int | None = None
    """Of a step or preview, from 0."""
    total: int | None = None
    pictures: tuple[bytes, ...] = ()
    """Small JPEG files, of a preview."""
    images: tuple[str, ...] = ()
    """Ids, when it succeeded."""
    code: str | None = None
    message: str | None = None

    @property
    def ends(self) -> bool:
        """Whether nothing comes after it."""
        return self.kind in ENDED

    def to_json(self) -> str:
        """For server-sent events: what is filled, previews as base64."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        filled = {name: value for name, value in row.items() if value not in (None, ())}
        if self.pictures:
            filled["pictures"] = [base64.b64encode(data).decode() for data in self.pictures]
        return json.dumps(filled, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A finished picture, as the gallery lists it."""

    id: str
    sha256: str
    """Of its PNG file, which holds its record."""
    job: str
    index: int
    owner: str
    size: int
    """Bytes of the file."""
    width: int
    height: int
    created: float
    """Unix time, as is `deleted`."""
    prompt: str
    model: str
    seed: int
    """This picture's own."""
    starred: bool = False
    board: str | None = None
    deleted: float | None = None
    """Since when it is in the trash."""


@dataclass(frozen=True, kw_only=True)
class JobQuery:
    """Which jobs; every `None` leaves all in."""

    owner: str | None = None
    states: frozenset[State] | None = None
    text: str | None = None
    """A part of the prompt, in whichever case."""
    model: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageQuery:
    """Which pictures; every `None` leaves all in."""

    owner: str | None = None
    job: str | None = None
    text: str | None = None
    """A part of the prompt, in whichever case."""
    model: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    starred: bool | None = None
    board: str | None = None
    trashed: bool = False
    """Those in the trash instead of those outside."""


Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """A part of a list, the newest first."""

    items: tuple[Item, ...]
    next: str | None
    """What to ask for the part behind it with; none at the end."""


@dataclass(frozen=True)
class Health:
    """Whether new jobs would be taken and painted, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]


class Refusal(Exception):
    """The queue does not do what it was asked, and says why in one sentence."""


class QueueFull(Refusal):
    """429."""

    def __init__(self, limit: int, waiting: int, retry_after: float, whose: Literal["server", "owner"]) -> None:
        subject = "the queue holds" if whose == "server" else "you have"
        super().__init__(
            f"{subject} {waiting} waiting jobs, and {limit} is the limit; try again in {retry_after:.0f} s"
        )
        self.limit, self.waiting, self.whose = limit, waiting, whose
        self.retry_after = retry_after
        """Seconds, 1 to 120."""


class DiskFull(Refusal):
    """507."""

    def __init__(self, bytes_needed: int) -> None:
        super().__init__(f"the disk is full: this job needs about {bytes_needed / 1e6:.0f} MB; remove something")
        self.bytes_needed = bytes_needed


class Unready(Refusal):
    """503: no model is there yet, or the journal cannot be written."""


class Draining(Unready):
    """503: the server is closing."""

    def __init__(self) -> None:
        super().__init__("the server is closing and takes no new jobs")


class KeyConflict(Refusal):
    """409: the idempotency key belongs to a job with another request."""

    def __init__(self, job: str) -> None:
        super().__init__("this Idempotency-Key was used for another request; use a new one")
        self.job = job


class Unknown(Refusal):
    """404: no such job or picture, or it is somebody else's."""


class UnknownModel(ValueError):
    """The request names a model that the engine does not have."""
