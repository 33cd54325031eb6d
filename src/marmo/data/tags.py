"""Captions as training sees them: tags in another order each time, and now and then none at all."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What happens to a caption, decided anew at every position of the run."""

    shuffle: bool = False
    """Put the tags, text between separators, in another order"""
    keep: int = 0
    """So many tags at the beginning stay where they are"""
    separator: str = ","
    drop: float = 0.0
    """How often the caption is left empty, from 0 to 1, for classifier-free guidance"""

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1 or self.keep < 0 or not self.separator:
            raise ValueError("drop lies between 0 and 1, keep is at least 0, and a separator has a character")


def word(caption: str, wording: Wording, seed: int, position: int) -> str:
    """The caption at a position of a run; the same for the same seed and position."""
    chance = random.Random(f"{seed} {position}")
    if chance.random() < wording.drop:
        return ""
    if not wording.shuffle:
        return caption
    tags = [tag for part in caption.split(wording.separator) if (tag := part.strip())]
    rest = tags[wording.keep :]
    chance.shuffle(rest)
    return f"{wording.separator} ".join(tags[: wording.keep] + rest)
