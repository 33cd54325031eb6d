"""What the engine and its worker process say to each other, beside the tasks and reports of the contract."""

from dataclasses import dataclass
from typing import Literal

from marmo.serve.contract import Failed, Finished, Offered, Previewed, Ready, Staged, Stepped, Stopped, Task
from marmo.serve.frames import Vocabulary

Kind = Literal["opening", "encoding", "step", "decoding", "enlarging"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The first message to a worker: all that it must know."""

    models: tuple[tuple[str, str], ...]
    """Id and path of each."""
    device: str | None = None
    dtype: str | None = None
    preview: str | None = None
    """A tiny decoder's file."""
    upscalers: bool = False
    """Whether to offer Lanczos and the upscalers of the library, too."""
    cache_bytes: int | None = None
    """For models and texts that no request needs at the moment; by default half of the device's memory."""
    threads: int | None = None


@dataclass(frozen=True)
class Cancel:
    job: str


@dataclass(frozen=True)
class Close:
    """Take nothing more; hand back what is not done in this time, and end."""

    seconds: float


@dataclass(frozen=True)
class Operation:
    """Work that cannot be interrupted."""

    kind: Kind
    batch: str = ""
    """Which requests it can be shared by; see `pace.batch_key`."""
    rows: int = 1


@dataclass(frozen=True)
class Began:
    """From here on the worker hears nothing, until it has ended."""

    operation: Operation


@dataclass(frozen=True)
class Ended:
    operation: Operation
    seconds: float


@dataclass(frozen=True)
class Tight:
    """This many rows of a batch did not fit into memory."""

    batch: str
    rows: int


@dataclass(frozen=True)
class Idle:
    """The worker waits for tasks."""


TO_WORKER = Vocabulary((Setup, Task, Cancel, Close))
FROM_WORKER = Vocabulary(
    (Ready, Offered, Staged, Stepped, Previewed, Finished, Failed, Stopped, Began, Ended, Tight, Idle),
)
