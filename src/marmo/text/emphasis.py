"""How a weight acts on the states of a text encoder.

Each is a function (states B T W, weights B T, states of the empty prompt 1 T W) -> states B T W; `weights` is 1 at the
start, the end and the padding of a chunk.

Shapes: B chunks, T tokens of a chunk, W width of the encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from einops import rearrange
from torch import Tensor, tensor

Emphasis: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def interpolated(states: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
    """From the empty prompt's state at the same place through the word's own: 0 is no word, 1 the word, 2 beyond it.

    ComfyUI's (`ClipTokenWeightEncoder` in `comfy/sd1_clip.py`).  A weight touches only its own token.
    """
    moved = empty + weights[..., None].to(states) * (states - empty)  # B T W
    return moved.where(weights[..., None] != 1, states)


@dataclass(frozen=True)
class Restored:
    """Every chunk's states times their weights, then all times one number that brings the chunk's mean back.

    A1111's default, "Original" (`modules/sd_emphasis.py`).  A weight touches every token of its chunk.  What a prompt
    says at its different steps A1111 encodes together, and the mean is that of all these texts.
    """

    counts: tuple[int, ...] = (1,)
    """For each text how often A1111 encodes it.  The states hold one text after the other, all of as many chunks."""

    def __call__(self, states: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
        weighted = states * weights[..., None].to(states)  # B T W
        scale = self._mean(states) / self._mean(weighted)  # chunks
        return weighted * scale.repeat(len(self.counts))[:, None, None]

    def _mean(self, values: Tensor) -> Tensor:
        """Of the chunks in one place of all texts."""
        counts = tensor(self.counts, device=values.device, dtype=values.dtype)
        chunks = rearrange(values, "(texts chunks) T W -> texts chunks (T W)", texts=len(self.counts)).mean(-1)
        return (chunks * counts[:, None]).sum(0) / counts.sum()  # chunks
