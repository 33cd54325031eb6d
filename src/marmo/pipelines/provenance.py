"""How pictures came to be: the records that their files will carry."""

import torch
from torch import Tensor

from marmo.files.record import Record
from marmo.pipelines.card import Card
from marmo.request import ImageRequest
from marmo.version import VERSION


def records(
    request: ImageRequest, card: Card, sigmas: Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[Record, ...]:
    """One record for each picture of a resolved request."""
    request = request.model_copy(update={"model": card.name})  # where it lies is nobody's business
    weights = card.hashes()
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
