"""The thread that works, and can be replaced.

When memory runs out while oneDNN writes code for a convolution, that thread can write none any more: every new shape
fails with "could not create a primitive", however much memory there is by then (Xbyak keeps its error per thread).
Another thread can.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Hands:
    """Does one thing at a time, each in the present thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "hands")

    def do(self, action: Callable[[], None]) -> None:
        """Do it and wait for it; raises what it raises."""
        self._thread.submit(action).result()

    def renew(self) -> None:
        """Leave the present thread for a new one."""
        self._thread.shutdown()
        self._thread = ThreadPoolExecutor(1, "hands")
