"""Where a training's pictures come from: a function of the position in an endless sequence.

    source(0), source(1), source(2), ...            # (picture, caption) each

The same position gives the same pair in every process, thread and run; that is all that resuming, several ranks and
reading ahead need.  Scenes that are drawn on demand are such a function; a finite collection becomes one by `shuffled`.
"""

from collections.abc import Callable, Iterable

from torch import Tensor

from marmo.data.order import Shuffle

Pair = tuple[Tensor, str]
"""A picture 3 H W in [-1, 1], and its caption."""

Contrasted = tuple[Tensor, str, str]
"""A picture, its caption, and a caption that is wrong of it."""

Source = Callable[[int], Pair]
ContrastedSource = Callable[[int], Contrasted]


def shuffled(pairs: Iterable[Pair], seed: int) -> Source:
    """Pairs that fit into memory, over and over, each time in another order."""
    kept = list(pairs)
    order = Shuffle(len(kept), seed)
    return lambda position: kept[order(position)]
