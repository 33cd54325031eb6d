"""How pictures came to be: the records that their files will carry."""

from collections.abc import Sequence

import torch

from marmo.files.names import model_name
from marmo.files.record import REFINER, UPSCALER, Record
from marmo.pipelines.card import Card, LatentCard, UpscalerCard
from marmo.request import ImageRequest
from marmo.version import VERSION


def records(
    request: ImageRequest,
    cards: Sequence[Card],
    sigmas: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
    upscaler: Card | None = None,
    second: UpscalerCard | None = None,
) -> tuple[Record, ...]:
    """One record for each picture of a resolved request, which these models made.

    Args:
        cards: the model, and its refiner if that has painted.
        sigmas: the noise levels of the first pass and, after it, of the second.
        upscaler: the model that enlarged between two passes.
        second: the second of two models that enlarged a picture.
    """
    names = [card.name for card in cards]  # where they lie is nobody's business
    refiner = request.refiner.model_copy(update={"model": names[1]}) if names[1:] else request.refiner
    hires = request.hires.model_copy(update={"model": upscaler.name}) if upscaler else request.hires
    vae = model_name(cards[0].vae_path) if isinstance(cards[0], LatentCard) else None
    upscale = request.upscale.model_copy(update={"model": second.name}) if second else request.upscale
    models = {"model": names[0], "refiner": refiner, "hires": hires, "upscale": upscale, "vae": vae}
    request = request.model_copy(update=models)
    weights = weight_hashes(cards, upscaler or second)
    return tuple(
        Record(
            marmo=VERSION,
            torch=torch.__version__,
            request=request,
            image=image,
            weights=weights,
            dtype=str(dtype).removeprefix("torch."),
            device=device.type,
            sigmas=tuple(sigmas),
        )
        for image in range(request.num_images)
    )


def weight_hashes(cards: Sequence[Card], upscaler: Card | None = None) -> dict[str, str]:
    """The sha256 of every weight file of a model and, after it, its refiner and its upscaler."""
    refiners = {REFINER + name: digest for card in cards[1:] for name, digest in card.hashes().items()}
    upscalers = {UPSCALER + name: digest for name, digest in upscaler.hashes().items()} if upscaler else {}
    return cards[0].hashes() | refiners | upscalers
