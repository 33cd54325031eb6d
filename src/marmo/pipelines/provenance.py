"""How pictures came to be: the records that their files will carry."""

from collections.abc import Sequence

import torch
from torch import Tensor

from marmo.files.names import model_name
from marmo.files.record import REFINER, Record
from marmo.pipelines.card import Card
from marmo.request import ImageRequest
from marmo.version import VERSION


def records(
    request: ImageRequest, cards: Sequence[Card], sigmas: Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[Record, ...]:
    """One record for each picture of a resolved request, which these models painted: the first, and its refiner."""
    names = [card.name for card in cards]  # where they lie is nobody's business
    refiner = request.refiner.model_copy(update={"model": names[1]}) if names[1:] else request.refiner
    vae = model_name(cards[0].vae_path)
    request = request.model_copy(update={"model": names[0], "refiner": refiner, "vae": vae})
    weights = weight_hashes(cards)
    return tuple(
        Record(
            marmo=VERSION,
            torch=torch.__version__,
            request=request,
            image=image,
            weights=weights,
            dtype=str(dtype).removeprefix("torch."),
            device=device.type,
            sigmas=tuple(float(sigma) for sigma in sigmas),
        )
        for image in range(request.num_images)
    )


def weight_hashes(cards: Sequence[Card]) -> dict[str, str]:
    """The sha256 of every weight file of a model and, after it, its refiner."""
    refiners = {REFINER + name: digest for card in cards[1:] for name, digest in card.hashes().items()}
    return cards[0].hashes() | refiners
