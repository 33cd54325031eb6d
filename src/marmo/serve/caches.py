"""Things kept as long as there is room: the one that was used longest ago goes first.

Knows neither models nor texts, and no torch; whoever puts a thing in says how large it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Entry(NamedTuple, Generic[Value]):
    value: Value
    size: int


class Cache(Generic[Key, Value]):
    """Values up to `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries = OrderedDict[Key, Entry[Value]]()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return self._size

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """What was put there, if it is there still; it counts as used now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: Key, value: Value, size: int) -> None:
        """Keep a value; others go where it needs the room.  One that is larger than the limit is not kept."""
        self.drop(key)
        if size > self.limit:
            return
        self.shrink(self.limit - size)
        self._entries[key] = Entry(value, size)
        self._size += size

    def drop(self, key: Key) -> None:
        """Keep it no longer."""
        entry = self._entries.pop(key, None)
        self._size -= 0 if entry is None else entry.size

    def shrink(self, size: int) -> None:
        """Let go until at most so many bytes are left."""
        while self._size > size:
            self.drop(next(iter(self._entries)))

    def keep(self, wanted: Callable[[Value], bool]) -> None:
        """Let go of all others."""
        for key in [key for key, entry in self._entries.items() if not wanted(entry.value)]:
            self.drop(key)
