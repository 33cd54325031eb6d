"""A folder that one process holds: the operating system forgets the lock when the process ends, however it ends."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Hold an existing folder until the block ends; `ValueError` where another process holds it.

    The lock is on the file `.lock` in it, which stays: what is removed could be held by somebody else.
    """
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock(descriptor):
            raise ValueError(f"another process is at work in {folder}; wait for its end or choose another folder")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds it; both modules exist on one kind of system alone."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
