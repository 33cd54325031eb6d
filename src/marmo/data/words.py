"""What a caption is to say about a scene, before a language says it."""

from dataclasses import dataclass
from typing import Literal

from marmo.data.corpus import Style


@dataclass(frozen=True)
class Words:
    """Choices that both languages follow."""

    names: tuple[str, ...]
    """Of the things of a pair, or of the one kind of thing."""
    style: Style | None = None
    has_background: bool = False
    size: Literal["big", "small"] | None = None
    has_relation: bool = True
