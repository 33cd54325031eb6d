"""The text encoders of a latent diffusion model as one: chunks of a prompt in, the states that the U-Net reads out.

Stable Diffusion 1 and 2 have one tower, SDXL two whose states stand side by side, SDXL's refiner the second of them.

Shapes: B chunks, T tokens of a chunk, W width of a tower, T' = B T tokens of the prompt, D width of all towers side by
side, P width of the pooled text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from marmo.models.clip_text import ClipText
from marmo.text.bpe import ClipTokenizer
from marmo.text.emphasis import Emphasis
from marmo.text.prompt import Chunk


class Encoded(NamedTuple):
    """Chunks, read."""

    states: Tensor
    """1 T' D: the chunks one after another, the towers side by side."""
    pooled: Tensor | None
    """B P: each chunk as one vector, from the tower that pools; none where no tower does."""


@dataclass(frozen=True)
class Tower:
    """A text encoder and how a model reads it."""

    network: ClipText
    pad: int
    """The token that fills a chunk up."""
    final_norm: bool
    """Whether the final norm follows the layer that is read: so in Stable Diffusion 1 and 2, not in SDXL."""
    pools: bool
    """Whether the text is wanted as one vector too."""


@dataclass(frozen=True)
class TextEncoders:
    """The towers of one model, in the order in which their states stand."""

    towers: tuple[Tower, ...]

    @property
    def context_length(self) -> int:
        """Tokens of a chunk, with its start and end: what the shortest tower takes."""
        return min(tower.network.config.context_length for tower in self.towers)

    def encode(self, chunks: Sequence[Chunk], skip: int, emphasis: Emphasis) -> Encoded:
        """Read a prompt.

        Args:
            chunks: one or more; each is read by itself, and the empty prompt is one empty chunk.
            skip: which layer of every tower, counted from its end, 1 being the last.
            emphasis: how weights act on states; asked once per tower with all chunks, and only where a weight is not 1.
        """
        read = [self._read(tower, chunks, skip, emphasis) for tower in self.towers]
        states = torch.cat([states.flatten(0, 1) for states, _ in read], dim=-1)  # T' D
        pooled = [vector for _, vector in read if vector is not None]
        return Encoded(states[None], torch.cat(pooled, dim=-1) if pooled else None)

    def _read(
        self, tower: Tower, chunks: Sequence[Chunk], skip: int, emphasis: Emphasis
    ) -> tuple[Tensor, Tensor | None]:
        """One tower's states B T W, and its vectors of the chunks B P."""
        network, length = tower.network, self.context_length
        plain = all(weight == 1 for chunk in chunks for weight in chunk.weights)
        rows = [_ids(chunk.ids, length, tower.pad) for chunk in (*chunks, *([] if plain else [Chunk((), ())]))]
        ids = torch.tensor(rows, device=network.positions.device)  # B T, or one row more
        hidden = network.hidden(ids, skip)  # B T W
        states = network.norm(hidden) if tower.final_norm else hidden
        pooled = network.embed(hidden[: len(chunks)], ids[: len(chunks)], skip) if tower.pools else None
        if plain:
            return states, pooled
        weights = torch.tensor([_weights(chunk.weights, length) for chunk in chunks], device=states.device)
        return emphasis(states[:-1], weights, states[-1:]), pooled


def _ids(ids: tuple[int, ...], length: int, pad: int) -> list[int]:
    """A chunk as a tower takes it: start, text, end, padding."""
    room = length - 2 - len(ids)
    assert room >= 0, "a chunk leaves room for start and end"
    return [ClipTokenizer.START, *ids, ClipTokenizer.END, *[pad] * room]


def _weights(weights: tuple[float, ...], length: int) -> list[float]:
    return [1.0, *weights, *[1.0] * (length - 1 - len(weights))]
