"""The narrow door between the queue and whatever paints: plain data in both directions, and no torch.

The queue hands over a `Task`; the engine answers with reports.  A local process stands behind it today
(`serve/engine.py`); a distributed one may tomorrow, because nothing here holds a tensor, a path or an open file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, Protocol

from marmo.request import Defaults, ImageRequest

LATENT_UPSCALER = "sd-x2"
"""The family of models that paint, and also double what another has painted."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model that the engine can paint with, as the catalogue shows it."""

    id: str
    """What a request names; letters, digits, dots, dashes and underscores, never a path."""
    title: str
    family: str
    sha256: str
    """Of its weights, as hex digits."""
    licence: str | None
    defaults: Defaults
    """Enough to resolve a request without the model itself."""

    @property
    def enlarges(self) -> bool:
        """Whether a second pass may go through it."""
        return not self.defaults.paints or self.family == LATENT_UPSCALER


@dataclass(frozen=True, kw_only=True)
class Task:
    """One attempt at one job."""

    job: str
    attempt: int
    """Counted from 1; a report of an older attempt is stale."""
    request: ImageRequest
    """Resolved; images are in it as bytes, the model as its id."""
    invariant: bool = False
    """Whether the pictures must have the same bits whatever shares the batch."""
    preview_every: int = 0
    """Steps between previews; 0 is none."""


@dataclass(frozen=True)
class Ready:
    """The engine has come up, for the first time or again."""

    models: tuple[Model, ...]
    is_all: bool = True
    """Whether these are all; if not, `Offered` follows."""


@dataclass(frozen=True)
class Offered:
    """All models of an engine that came up before it knew them all."""

    models: tuple[Model, ...]


@dataclass(frozen=True)
class Staged:
    """A part of the work begins that has no steps of its own."""

    job: str
    attempt: int
    stage: Literal["loading", "encoding", "upscaling", "decoding"]


@dataclass(frozen=True)
class Stepped:
    """One step is behind the job."""

    job: str
    attempt: int
    index: int
    """Counted from 0."""
    total: int
    seconds: float
    """What the step took, on a monotonic clock."""


@dataclass(frozen=True)
class Previewed:
    """What the pictures look like so far."""

    job: str
    attempt: int
    index: int
    pictures: tuple[bytes, ...]
    """Small JPEG files."""


@dataclass(frozen=True)
class Finished:
    """The job is painted."""

    job: str
    attempt: int
    pictures: tuple[bytes, ...]
    """PNG files that carry their records."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """This attempt came to nothing, and another would not do better."""

    job: str
    attempt: int
    code: Literal["request", "model", "memory", "internal"]
    message: str
    """One sentence for the user, without paths."""


@dataclass(frozen=True)
class Stopped:
    """The job was cancelled, or handed back because the engine closes."""

    job: str
    attempt: int
    cancelled: bool


@dataclass(frozen=True)
class Died:
    """The worker is gone, and with it the attempts that it had in hand.  A new worker is on its way."""

    attempts: tuple[tuple[str, int], ...]
    reason: str


Report = Ready | Offered | Staged | Stepped | Previewed | Finished | Failed | Stopped | Died


class Engine(Protocol):
    """What paints.  Every method returns at once, from any thread."""

    reports: SimpleQueue[Report]

    def start(self) -> None:
        """Come up; `Ready` follows."""
        ...

    def room(self, request: ImageRequest, running: Sequence[ImageRequest]) -> bool:
        """Whether the request may join those that run: it fits their batch, or nothing runs."""
        ...

    def submit(self, task: Task) -> None:
        """Paint; `Finished`, `Failed`, `Stopped` or `Died` ends every task exactly once."""
        ...

    def cancel(self, job: str) -> None:
        """Stop a job at its next step; nothing happens if it is not running."""
        ...

    def close(self, seconds: float) -> None:
        """Hand back what cannot finish within this time, then end."""
        ...
