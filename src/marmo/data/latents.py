"""What a latent model learns from: pictures as the moments of their latents, captions as ids or states, by position.

    encoded(source, encode, read, window=2048, repeats=8, seed=0)(position) -> Row

Drawing a scene and encoding it costs as much as learning from it.  So a window of the source is kept and gone through
`repeats` times, each time in another order, before the next one takes its place; with one repeat everything is fresh.
What stands at a position is a function of the position alone.  Of a picture the moments are kept, and every time other
latents are drawn from them.  People's pictures come again anyway: their moments and texts are kept on disk.

Shapes: B pictures, S side of a picture, Z latent channels, H W height and width of the latents, T tokens, D width of
the states.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marmo.data.cache import TensorCache, content_hash
from marmo.data.order import permute
from marmo.data.source import Source
from marmo.models.vae import Moments

CHUNK = 64
"""Pictures that are encoded together."""


class Row(NamedTuple):
    """One picture and what is said of it."""

    moments: Moments
    """Z H W each, of the scaled latents."""
    text: Tensor
    """T ids, or T D states."""


class Draw(NamedTuple):
    """What chance decided for one image of a run."""

    x0: Tensor
    """Z H W: latents."""
    noise: Tensor
    """Z H W, standard normal."""
    share: float
    """In [0, 1): where among the noise levels."""
    text: Tensor


RowSource = Callable[[int], Row]
Encode = Callable[[Tensor], Moments]
"""Pictures B 3 S S -> the moments of their scaled latents, B Z H W, on the CPU."""
Read = Callable[[Sequence[str]], Tensor]
"""Captions -> B T ids or B T D states, on the CPU."""


def encoded(source: Source, encode: Encode, read: Read, window: int, repeats: int, seed: int) -> RowSource:
    """Rows by position.  Threads may ask together; one of them encodes, and the others wait for it.

    Args:
        window: pictures that are kept; whole chunks.
        repeats: how often each comes before the next window.

    Raises `ValueError` for a window that is no multiple of `CHUNK`.
    """
    if window < CHUNK or window % CHUNK or repeats < 1:
        raise ValueError(
            f"a window has a multiple of {CHUNK} pictures and at least one repeat, not {window}, {repeats}"
        )
    lock = Lock()

    @lru_cache(maxsize=window // CHUNK + 2)
    def chunk(number: int) -> list[Row]:
        pairs = [source(number * CHUNK + place) for place in range(CHUNK)]
        with torch.inference_mode():
            moments = encode(torch.stack([picture for picture, _ in pairs]))
            texts = read([caption for _, caption in pairs])
        halves = zip(moments.mean, moments.logvar, texts, strict=True)
        return [Row(Moments(mean, logvar), text) for mean, logvar, text in halves]

    def at(position: int) -> Row:
        number, place = divmod(picture_at(position, window, repeats, seed), CHUNK)
        with lock:
            return chunk(number)[place]

    return at


def kept_on_disk(source: Source, encode: Encode, read: Read, cache: TensorCache, encoders: str) -> RowSource:
    """Rows by position of a source whose pictures come again; each is encoded when it is first met, in any run.

    Args:
        encoders: says which autoencoder and text encoder these are.
    """

    def at(position: int) -> Row:
        picture, caption = source(position)

        def moments() -> dict[str, Tensor]:
            with torch.inference_mode():
                return encode(picture[None])._asdict()

        def text() -> dict[str, Tensor]:
            with torch.inference_mode():
                return {"text": read([caption])[0]}

        shown = cache.get({"picture": content_hash(picture.numpy().tobytes()), "by": encoders}, moments)
        said = cache.get({"caption": caption, "by": encoders}, text)
        return Row(Moments(shown["mean"][0], shown["logvar"][0]), said["text"])

    return at


def picture_at(position: int, window: int, repeats: int, seed: int) -> int:
    """Which picture of the source an image of the run is.  The first time round a window is gone through as it comes,
    so that it is encoded little by little."""
    turn, place = divmod(position, window * repeats)
    again, place = divmod(place, window)
    if again:
        place = int(_order(window, seed, turn * repeats + again)[place])
    return turn * window + place


def drawn(row: Row, empty: Tensor, dropout: float, share: float, seed: int, position: int) -> Draw:
    """Latents, noise, and whether the caption is left out, for an image of a run.

    Args:
        empty: the text of no caption.
        dropout: how often a caption is left out, from 0 to 1.
    """
    chance = torch.Generator().manual_seed(_key(seed, position))
    inner, noise = torch.randn(2, *row.moments.mean.shape, generator=chance)
    dropped = float(torch.rand((), generator=chance)) < dropout
    return Draw(row.moments.sample(inner), noise, share, empty if dropped else row.text)


@lru_cache(maxsize=4)
def _order(window: int, seed: int, turn: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return permute(np.arange(window, dtype=np.uint64), window, _key(seed, turn))


def _key(seed: int, number: int) -> int:
    """63 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()) >> 1
