"""What a collection holds, before anything is believed of it: the bytes of a picture and of its caption."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Item:
    """One entry of a collection, as it was found."""

    name: str
    """Where it stands, for people: a path, or a tar and what is in it."""
    picture: bytes
    caption: bytes | None
    """The text as bytes, which may be no text at all; `None` where there is none."""


class Items(Protocol):
    """A collection, always in the same order."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a report calls an entry."""
        ...

    def item(self, index: int) -> Item:
        """One entry; `ValueError` where it cannot be read.  Threads may call this together."""
        ...
