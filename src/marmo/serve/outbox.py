"""A byte stream that several threads write messages to and nobody waits for."""

from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import IO

from marmo.serve.frames import Vocabulary

CROWDED = 1 << 20
"""Bytes that wait for the other side; more than a few reports."""


class Outbox:
    """Writes in a thread of its own, in the order in which messages were put.

    Args:
        broken: called once, from that thread, when the other side reads no more.
    """

    def __init__(self, stream: IO[bytes], words: Vocabulary, broken: Callable[[], None] = lambda: None) -> None:
        self._stream, self._words, self._broken = stream, words, broken
        self._queue = SimpleQueue[bytes | None]()
        self._waiting = 0
        self._lock = Lock()
        self._thread = Thread(target=self._write, name="outbox", daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        """Send a message, later; returns at once."""
        frame = self._words.pack(message)
        with self._lock:
            self._waiting += len(frame)
        self._queue.put(frame)

    def is_crowded(self) -> bool:
        """Whether the other side is so slow that what can be left out should be."""
        return self._waiting > CROWDED

    def close(self, seconds: float) -> None:
        """Send what waits, as far as that goes in this time, and close the stream."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _write(self) -> None:
        with suppress(OSError, ValueError), self._stream:  # closed by us is a ValueError
            while (frame := self._queue.get()) is not None:
                self._stream.write(frame)
                self._stream.flush()
                with self._lock:
                    self._waiting -= len(frame)
            return
        self._broken()
