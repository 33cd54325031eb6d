"""The names of the ways to save memory; without torch, for the command line."""

from typing import Literal

Mode = Literal["full", "offload", "low", "least"]
"""All parts stay on the device; idle parts wait in main memory; each part is read when it is needed; the same, and the
autoencoder works in small tiles, which shows."""
Choice = Literal["auto", "full", "offload", "low", "least"]
"""What a user asks for: a mode, or the first that has room and paints the same."""


class NoRoom(MemoryError):
    """Memory has run out; the message says in one sentence what to change."""
