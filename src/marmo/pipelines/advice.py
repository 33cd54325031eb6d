"""Which mode has room on this machine, and what to say when the one that was taken had not."""

import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import TYPE_CHECKING

import torch

from marmo.nn.memory import is_out_of_memory, room
from marmo.pipelines.card import LatentCard
from marmo.pipelines.footprint import expected_memory
from marmo.pipelines.modes import Choice, Mode, NoRoom
from marmo.pipelines.painter import resolved
from marmo.request import ImageRequest

if TYPE_CHECKING:  # which explains itself with this
    from marmo.pipelines.latent import LatentDiffusion

AMPLE = 4 << 30
"""Bytes beside the weights with which any model's own size is painted; where they are there, nothing is reckoned."""
SHARE = 0.9
"""Of the room that a suggestion may fill: a forecast is right to some 15 %."""


def choose_mode(choice: Choice, cards: Sequence[LatentCard], device: torch.device, dtype: torch.dtype) -> Mode:
    """The mode itself, or with `auto` the first that has room for a picture of the model's own size.

    Raises `ValueError` for a mode that saves nothing on this device.
    """
    if choice == "offload" and device.type == "cpu":
        raise ValueError("memory offload keeps idle parts in main memory, where they are on the CPU anyway; use low")
    if choice != "auto":
        return choice
    there = room(device)
    weights = sum(info.num_elements for card in cards for part in card.weights.values() for info in part.infos.values())
    if weights * dtype.itemsize + AMPLE <= there:
        return "full"
    request = ImageRequest(prompt="").resolve(cards[0].defaults)
    for mode in _modes(device)[:-1]:
        if expected_memory(cards, request, dtype, mode) <= SHARE * there:
            return mode
    return "low"


@contextmanager
def explaining(model: "LatentDiffusion", request: ImageRequest) -> Generator[None]:
    """Turns a lack of memory while a request is painted into `NoRoom`."""
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, NoRoom) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what was too much
    model.residence.clear()  # to reckon takes some memory as well
    raise NoRoom(advice(model, request))


def advice(model: "LatentDiffusion", request: ImageRequest) -> str:
    """One sentence for a request that found no memory: what to change so that it does."""
    whole, there = model.resolve(request), room(model.device)
    taken = _expected(model, whole, model.residence.mode)
    begin = f"the memory is not enough: the request takes about {_gib(taken)} and there is room for {_gib(there)}"
    for mode, smaller, words in _ways(model, whole):
        expected = _expected(model, smaller, mode)
        if expected <= SHARE * there and expected < taken:
            return f"{begin}; with {words} it takes about {_gib(expected)}"
    return f"{begin}; no setting makes this model small enough, so close other programs or take another model"


def _ways(model: "LatentDiffusion", request: ImageRequest) -> Iterator[tuple[Mode, ImageRequest, str]]:
    """Changes to a request, the least first, and the flags that make them."""
    modes = _modes(model.device)
    for mode in modes[modes.index(model.residence.mode) + 1 :]:
        yield mode, request, f"--memory {mode}"
    mode = modes[-1]
    words = [] if mode == model.residence.mode else [f"--memory {mode}"]
    if request.num_images > 1:
        request, words = request.model_copy(update={"num_images": 1}), [*words, "--num-images 1"]
        yield mode, request, " ".join(words)
    width, height, multiple = resolved(request.width), resolved(request.height), model.card.defaults.size_multiple
    for eighths in range(7, 0, -1):
        size = [max(1, int(side * sqrt(eighths / 8)) // multiple) * multiple for side in (width, height)]
        smaller = request.model_copy(update=dict(zip(("width", "height"), size, strict=True)))
        yield mode, smaller, " ".join([*words, f"--width {size[0]} --height {size[1]}"])


def _modes(device: torch.device) -> list[Mode]:
    """From the fastest to the thriftiest; only the last paints something else."""
    return ["full", "low", "least"] if device.type == "cpu" else ["full", "offload", "low", "least"]


def _expected(model: "LatentDiffusion", request: ImageRequest, mode: Mode) -> int:
    cards = [painter.card for painter in model.painters[: 2 if request.refiner.model else 1]]
    upscaler = model.upscaler.card if model.upscaler is not None and request.hires.model else None
    return expected_memory(cards, request, model.dtype, mode, upscaler)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
