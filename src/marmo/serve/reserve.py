"""A file that does nothing but take room: when the disk is full it goes, so that the journal can end its sentence."""

from contextlib import suppress
from pathlib import Path

from marmo.serve.disk import Disk


class Reserve:
    """Room for the journal on a full disk; any thread may use it."""

    def __init__(self, path: Path, size: int, disk: Disk) -> None:
        self._path, self._size, self._disk = path, size, disk
        self._is_held = False

    @property
    def is_held(self) -> bool:
        """False from a full disk on, until there is room again."""
        return self._is_held

    def take(self) -> bool:
        """Hold the room, if there is as much again for others; whether it is held."""
        if not self._is_held:
            with suppress(OSError):
                if self._disk.free(self._path.parent) >= 2 * self._size:
                    self._disk.allocate(self._path, self._size)
                    self._is_held = True
        return self._is_held

    def release(self) -> None:
        """Give the room to the journal."""
        self._is_held = False
        with suppress(OSError):
            self._disk.remove(self._path)
