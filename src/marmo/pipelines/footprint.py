"""What a request takes: bytes and work, part by part, from configs alone.

No weight is read.  The networks are rehearsed with tensors that have shapes and no numbers (`nn/rehearsal.py`), so a
new family needs no constants of its own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch

from marmo.diffusion.samplers import ASK_TWICE, CFG_PP
from marmo.models.vae import VAE
from marmo.nn.blueprint import blueprint
from marmo.nn.rehearsal import Work, rehearsal
from marmo.pipelines import first_stage
from marmo.pipelines.card import LatentCard
from marmo.pipelines.denoisers import denoiser
from marmo.pipelines.hires import second_request
from marmo.pipelines.modes import Mode
from marmo.pipelines.painter import resolved
from marmo.pipelines.residence import FULL, MODES, Thrift
from marmo.request import ImageRequest
from marmo.weights.kinds import Slot

PROCESS_BYTES = 320 << 20
"""Python, torch and its threads before any weight."""
PROMPT_TOKENS = 77


@dataclass(frozen=True)
class Need:
    """What one part of a model needs."""

    weights: int
    """Bytes."""
    work: int
    """Bytes beside the weights, at most, while it works."""
    calls: Counter[Work]
    """What the whole request asks of the engine, and how often."""

    @property
    def both(self) -> int:
        return self.weights + self.work


def needs(card: LatentCard, request: ImageRequest, dtype: torch.dtype, thrift: Thrift = FULL) -> Sequence[Need]:
    """Of the text encoders, the U-Net and the autoencoder, for a resolved request."""
    texts = Need(sum(_weights(card, tower.slot, dtype) for tower in card.towers), 0, Counter())
    return texts, _unet(card, request, dtype, thrift), _decoder(card, request, dtype, thrift)


def expected_memory(cards: Sequence[LatentCard], request: ImageRequest, dtype: torch.dtype, mode: Mode = "full") -> int:
    """Bytes at the peak of painting a resolved request, the program itself included; on the device alone if it is not
    the CPU, without the program.

    Args:
        cards: the model and, if the request has one, its refiner.
    """
    if request.hires.acts:  # the second pass is the larger
        request = second_request(request, cards[0].defaults.size_multiple)
    parts = [need for card in cards for need in needs(card, request, dtype, MODES[mode])]
    if MODES[mode].idle == "device":
        return PROCESS_BYTES + sum(need.weights for need in parts) + max(need.work for need in parts)
    return PROCESS_BYTES + max(need.both for need in parts)


def _unet(card: LatentCard, request: ImageRequest, dtype: torch.dtype, thrift: Thrift) -> Need:
    height, width = _size(card, request)
    prompts = len(request.regions) + (1 if request.guidance_scale == 1 and request.sampler not in CFG_PP else 2)
    rows = request.num_images * prompts
    together = min(rows, max(1, thrift.latents_per_call // (height * width)))
    with blueprint(), torch.no_grad():
        unet = denoiser(card.unet).to(dtype)
        context = unet.project(torch.empty(1, PROMPT_TOKENS, card.unet.context_width, dtype=dtype))
        vector = torch.empty(1, card.unet.vector_width or 1)
        x = torch.empty(together, card.unet.in_channels, height, width, dtype=dtype)
        with rehearsal() as ledger:
            unet(x, torch.empty(together), context, vector)
    kept = sum(part.nbytes for layer in context for part in layer) * prompts
    times = ceil(rows / together) * evaluations(request)
    return Need(_weights(card, "unet", dtype), ledger.peak + _rearranged(unet) + kept, _times(ledger.calls, times))


def evaluations(request: ImageRequest) -> int:
    """How often the U-Net is asked, at most."""
    return resolved(request.steps) * (2 if request.sampler in ASK_TWICE else 1)


def _decoder(card: LatentCard, request: ImageRequest, dtype: torch.dtype, thrift: Thrift) -> Need:
    height, width = _size(card, request)
    tiles = first_stage.pieces(height, width, thrift.small_tiles)
    with blueprint(), torch.no_grad():
        vae = VAE(card.vae).to(dtype)
        z = torch.empty(1, card.vae.latent_channels, *tiles.size, dtype=dtype)
        with rehearsal() as ledger:
            vae.decode(z)
    pictures = 4 * 3 * height * width * card.vae.factor**2 * (request.num_images + 2)
    calls = _times(ledger.calls, tiles.number * request.num_images)
    return Need(_weights(card, "vae", dtype), ledger.peak + _rearranged(vae) + pictures, calls)


def _rearranged(network: torch.nn.Module) -> int:
    """oneDNN takes a kernel in an order of its own; the copies live as long as the operation."""
    return 2 * max(weight.nbytes for weight in network.parameters())


def _weights(card: LatentCard, slot: Slot, dtype: torch.dtype) -> int:
    return sum(info.num_elements for info in card.weights[slot].infos.values()) * dtype.itemsize


def _size(card: LatentCard, request: ImageRequest) -> tuple[int, int]:
    return resolved(request.height) // card.vae.factor, resolved(request.width) // card.vae.factor


def _times(calls: Counter[Work], times: int) -> Counter[Work]:
    return Counter({work: count * times for work, count in calls.items()})
