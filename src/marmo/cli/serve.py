"""`marmo serve`: a durable job server on this machine, or with tokens for others.

    marmo serve --model v1-5.safetensors
    marmo serve --model v1-5.safetensors sdxl/ --host 0.0.0.0 --token-file tokens --allow-host marmo.example

This process brings no torch: the worker does, in a process of its own.
"""

import asyncio
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import tyro

from marmo.version import VERSION

if TYPE_CHECKING:
    from marmo.serve.contract import Engine
    from marmo.serve.settings import Settings
    from marmo.serve.tokens import Tokens


@dataclass(frozen=True)
class Serve:
    """Answer requests over HTTP; nothing that was accepted is lost."""

    model: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")]
    """Checkpoint files or diffusers folders; the first that paints is the default"""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --token-file"""
    port: int = 7860
    """0 takes a free one"""
    data: Path | None = None
    """Folder for jobs and pictures; by default marmo in the user's data folder"""
    token_file: Path | None = None
    """Who may come in; made with one admin if it is not there"""
    allow_host: tuple[str, ...] = ()
    """Names by which clients may call the server, beside the address itself and localhost"""
    allow_origin: tuple[str, ...] = ()
    """Pages elsewhere that may send requests, as https://name, such as a proxy's"""
    device: str | None = None
    """cpu, cuda, mps, ...; the best there is by default"""
    dtype: str | None = None
    """float32, bfloat16 or float16; the fastest that is safe by default"""
    upscalers: bool = True
    """Offer Lanczos and the upscalers that `marmo models` lists, too"""
    preview: Path | None = None
    """A tiny decoder (TAESD's layout) for previews"""
    invariant: bool = False
    """Paint the same bits whatever else is painted at the same time; slower"""
    drain: float = 20.0
    """Seconds that running jobs have when the server is told to end; then they are parked"""
    backups: int = 7
    """Copies of the journal to keep, one a day; 0 makes none"""
    backup_folder: Path | None = None
    """Where they go; by default backups in the data folder"""
    max_waiting: int = 10_000
    """Jobs in the queue"""
    max_waiting_per_user: int = 1000
    """Jobs in the queue of one user"""
    max_megapixels: float = 4.2
    """Of one picture"""
    max_steps: int = 200
    """Of one request"""
    quiet: bool = False
    """Write no log"""

    def run(self) -> int:
        """Check everything that can be checked, then serve until a signal comes."""
        if any(find_spec(package) is None for package in ("fastapi", "uvicorn", "python_multipart")):
            raise ValueError("a server needs more packages; install them with: pip install 'marmo[serve]'")
        settings, models = self.settings(), name_models(self.model)
        folder = self.data or data_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        from marmo.serve import server

        server.raise_file_limit()
        with server.listen(self.host, self.port) as listener:
            return asyncio.run(self._serve(settings, models, folder, listener))

    def settings(self) -> "Settings":
        """`ValueError` for what no server should be started with."""
        from marmo.serve.settings import MEGAPIXEL, Limits, Patience, Settings
        from marmo.serve.tokens import check_reach

        tokens = self._tokens()
        check_reach(self.host, tokens)
        paint = round(self.max_megapixels * MEGAPIXEL)
        return Settings(
            hosts=frozenset(_check_host(name) for name in self.allow_host),
            origins=frozenset(_check_origin(origin) for origin in self.allow_origin),
            tokens=tokens,
            limits=Limits(steps=self.max_steps, paint_pixels=paint, request_pixels=4 * paint),
            patience=Patience(drain=self.drain),
        )

    async def _serve(self, settings: "Settings", models: Mapping[str, Path], folder: Path, listener: socket) -> int:
        from marmo.serve.app import create_app
        from marmo.serve.backups import Plan
        from marmo.serve.context import Context
        from marmo.serve.dialects.offered import dialects
        from marmo.serve.dispatching import Style
        from marmo.serve.jobs import Jobs, Limits
        from marmo.serve.logs import Bridge, Log
        from marmo.serve.server import run

        log = Log(None if self.quiet else sys.stderr)
        logging.basicConfig(handlers=[Bridge(log)], level=logging.WARNING, force=True)
        engine = self._engine(models)
        limits = Limits(waiting=self.max_waiting, per_owner=self.max_waiting_per_user)
        copies = Plan(self.backup_folder or folder / "backups", self.backups) if self.backups > 0 else None
        jobs = Jobs(folder, engine, limits, Style(invariant=self.invariant, preview_every=1), copies=copies)
        context = Context(jobs=jobs, settings=settings, log=log)
        print(f"Marmo {VERSION}: {address(self.host, listener.getsockname()[1])}  (Ctrl-C ends it)", flush=True)
        await run(create_app(context, dialects()), context, listener)
        return 0

    def _engine(self, models: Mapping[str, Path]) -> "Engine":
        from marmo.serve.engine import LocalEngine
        from marmo.serve.messages import Setup

        setup = Setup(
            models=tuple((id, str(path)) for id, path in models.items()),
            device=self.device,
            dtype=self.dtype,
            preview=None if self.preview is None else str(self.preview),
            upscalers=self.upscalers,
        )
        return LocalEngine(setup)

    def _tokens(self) -> "Tokens":
        from marmo.serve.tokens import Tokens, create_file

        if self.token_file is None:
            return Tokens()
        if not self.token_file.exists():
            token = create_file(self.token_file)
            print(f"{self.token_file} is new; its one user, admin, has the token {token}", flush=True)
        return Tokens.from_file(self.token_file)


def name_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Id -> path: an id is the file's name as it may stand in a request; `ValueError` for a path that is not there."""
    models: dict[str, Path] = {}
    for path in paths:
        place = path.expanduser().absolute()
        if not place.exists():
            raise ValueError(f"there is no model at {path}")
        stem = place.name if place.is_dir() else place.stem
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"
        names = chain([plain], (f"{plain}-{number}" for number in count(2)))
        models[next(name for name in names if name not in models)] = place
    return models


def data_folder() -> Path:
    """marmo in $XDG_DATA_HOME, else in ~/.local/share."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "marmo"


def address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host.strip("[]") else host)
    return f"http://{shown}:{port}/"


def _check_host(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]", name):
        raise ValueError(f"--allow-host {name!r} is no name of a host; give it without scheme, port and path")
    return name.lower()


def _check_origin(origin: str) -> str:
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(
            f"--allow-origin {origin!r} is no origin; one looks like https://marmo.example or http://a:8080"
        )
    return origin.lower()
