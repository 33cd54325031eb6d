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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import tyro

from marmo.version import VERSION

if TYPE_CHECKING:
    from marmo.serve.settings import Settings


@dataclass(frozen=True)
class Serve:
    """Answer requests over HTTP; nothing that was accepted is lost."""

    model: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")]
    """Checkpoint files or diffusers folders; the first is the default"""
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
    preview: Path | None = None
    """A tiny decoder (TAESD's layout) for previews"""
    invariant: bool = False
    """Paint the same bits whatever else is painted at the same time; slower"""
    drain: float = 20.0
    """Seconds that running jobs have when the server is told to end; then they are parked"""
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
