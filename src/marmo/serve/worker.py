"""The process that paints: reads tasks from its standard input, writes reports to its standard output.

The engine starts it as `python -m marmo.serve.worker`, and whatever befalls it, such as a crash in a driver or the
system's killing it for memory, leaves the server standing.  It ends by itself when its standard input does, so that no
worker outlives its server.
"""

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import BinaryIO

import torch

from marmo import catalog
from marmo.pipelines.card import LANCZOS
from marmo.serve import troubles
from marmo.serve.batching import Batch
from marmo.serve.contract import Model, Offered, Ready, Stopped, Task
from marmo.serve.messages import FROM_WORKER, TO_WORKER, Cancel, Close, Idle, Setup
from marmo.serve.outbox import Outbox
from marmo.serve.stock import Stock, Unusable

LOST = 70
"""Exit status: the device answers no more."""
GOODBYE = 10.0
"""Seconds for the last reports to be read."""


class Worker:
    """Takes tasks as they come and paints them side by side."""

    def __init__(self, batch: Batch, inbox: SimpleQueue[object], outbox: Outbox) -> None:
        self._batch, self._inbox, self._outbox = batch, inbox, outbox
        self._deadline: float | None = None
        """When to hand everything back; none while tasks are taken."""

    def run(self) -> None:
        """Paint until told to close."""
        while True:
            self._listen()
            if self._deadline is not None and (not len(self._batch) or time.monotonic() >= self._deadline):
                self._batch.stop()
                return
            if len(self._batch):
                self._batch.work()

    def _listen(self) -> None:
        """Take all messages that are there; with nothing to do, wait for one."""
        if not len(self._batch) and self._deadline is None and self._inbox.empty():
            self._outbox.put(Idle())
            self._take(self._inbox.get())
        try:
            while True:
                self._take(self._inbox.get_nowait())
        except Empty:
            return

    def _take(self, message: object) -> None:
        match message:
            case Task() if self._deadline is None:
                self._batch.add(message)
            case Task():
                self._outbox.put(Stopped(message.job, message.attempt, cancelled=False))
            case Cancel():
                self._batch.cancel(message.job)
            case Close():
                deadline = time.monotonic() + message.seconds
                self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
            case _:
                raise AssertionError(f"{type(message)} is no message to a worker")


def main() -> None:
    """Paint what the standard input asks for."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the server's business, which closes us in time
    source, target = _take_streams()
    try:
        setup = TO_WORKER.read(source)
    except EOFError:
        return  # the server died before it had said anything
    assert isinstance(setup, Setup), "the first message says what there is"
    outbox, inbox = Outbox(target, FROM_WORKER), SimpleQueue[object]()
    Thread(target=_read, args=(source, inbox), name="inbox", daemon=True).start()
    try:
        stock = _stock(setup, outbox)
    except ValueError as error:
        sys.exit(f"marmo worker: {error}")
    try:
        Worker(Batch(stock, outbox.put, outbox.is_crowded), inbox, outbox).run()
    except troubles.Lost as error:
        print(f"marmo worker: {error}", file=sys.stderr)
        outbox.close(GOODBYE)
        os._exit(LOST)  # the driver's own clean-up may hang
    outbox.close(GOODBYE)


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The standard streams for ourselves: what a library prints goes to the error stream."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return source, target


def _stock(setup: Setup, outbox: Outbox) -> Stock:
    """Open the catalogue and tell it."""
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    models = {id: Path(path) for id, path in setup.models}
    if setup.upscalers:
        models = {**models, LANCZOS.name: models.get(LANCZOS.name, LANCZOS.path)}
    preview = None if setup.preview is None else Path(setup.preview)
    stock = Stock(models, setup.device, setup.dtype, preview, setup.cache_bytes)
    known = _usable(stock.offers())
    outbox.put(Ready(known, is_all=not setup.upscalers))
    if setup.upscalers:
        Thread(target=offer_library, args=(stock, known, outbox.put), name="library", daemon=True).start()
    return stock


def offer_library(stock: Stock, known: Sequence[Model], tell: Callable[[Offered], None]) -> None:
    """Add the upscalers of the library, which may be large and slow to read; one that cannot be read costs only that.

    Args:
        known: what was offered before.
    """
    found: tuple[Model, ...] = ()
    try:
        found = _usable(stock.add({model.id: model.path for model in catalog.models() if model.use == "upscale"}))
    except (OSError, ValueError) as error:
        print(f"marmo worker: the library's upscalers are left out: {error}", file=sys.stderr)
    finally:
        tell(Offered((*known, *found)))


def _usable(offers: Iterable[Model | Unusable]) -> tuple[Model, ...]:
    """Those that are; of the others the log hears."""
    models: list[Model] = []
    for offer in offers:
        if isinstance(offer, Unusable):
            print(f"marmo worker: {offer}", file=sys.stderr)
        else:
            models.append(offer)
    return tuple(models)


def _read(source: BinaryIO, inbox: SimpleQueue[object]) -> None:
    """Pass messages on; without a server there is nobody to paint for."""
    try:
        while True:
            inbox.put(TO_WORKER.read(source))
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    main()
