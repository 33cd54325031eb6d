"""How one server is set up: from the command line alone, never over HTTP."""

from dataclasses import dataclass, field

from marmo.serve.tokens import Tokens

MEGABYTE = MEGAPIXEL = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, and one body hold; `jobs.Limits` says how many may wait."""

    body_bytes: int = 80 * MEGABYTE
    """Of one request; a picture of `picture_bytes` takes 4/3 of its size as base64."""
    uploads_bytes: int = 400 * MEGABYTE
    """Of all bodies that are on their way in at one moment."""
    picture_bytes: int = 50 * MEGABYTE
    picture_pixels: int = 64_000_000
    prompt_chars: int = 32_000
    paint_pixels: int = 2048 * 2048
    """Of one picture that is asked for."""
    enlarge_pixels: int = 32 * MEGAPIXEL
    """Of one picture that is only enlarged, and of what the network makes of it before it is resampled."""
    request_pixels: int = 16 * 1024 * 1024
    """Of all pictures of one request together."""
    steps: int = 200


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the server waits for whom, in seconds."""

    headers: float = 10.0
    """For the first line and the headers of a request."""
    body: float = 10.0
    """For a body that does not come at all; what comes buys time at `body_rate`."""
    body_rate: float = 16_000.0
    """Bytes a second below which an upload is given up."""
    idle: float = 75.0
    """For the next request of a kept connection; above the 60 s that proxies keep theirs."""
    heartbeat: float = 1.0
    """Between signs of life on a silent stream of events."""
    drain: float = 20.0
    """For running jobs when the server is told to end."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the command line decides."""

    host: str = "127.0.0.1"
    port: int = 7860
    hosts: frozenset[str] = frozenset()
    """Names, beside this machine's own, by which clients may call the server."""
    origins: frozenset[str] = frozenset()
    """Pages elsewhere that may send requests, such as https://marmo.example: a proxy's name."""
    tokens: Tokens = field(default_factory=Tokens)
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
