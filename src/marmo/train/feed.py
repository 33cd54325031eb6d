"""Parts of batches, read ahead by threads.

What is read depends on the position alone, so threads change when something is read and never what.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import TypeVar

Item = TypeVar("Item")

AHEAD = 2
"""Parts that wait in memory."""


def feed(source: Callable[[int], Item], start: int, size: int, stride: int, workers: int = 0) -> Generator[list[Item]]:
    """The items at `start` to `start + size`, then those `stride` further, without end.

    Args:
        workers: threads that read; with 0 everything happens in the caller's, when it asks.
    """
    parts = (range(first, first + size) for first in count(start, stride))
    if workers == 0:
        for part in parts:
            yield [source(position) for position in part]
    pool = ThreadPoolExecutor(workers)
    waiting: deque[list[Future[Item]]] = deque()
    try:
        for part in parts:
            waiting.append([pool.submit(source, position) for position in part])
            if len(waiting) > AHEAD:
                yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
