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
from marmo.models.rrdb import RRDBConfig
from marmo.models.vae import VAE
from marmo.nn.blueprint import blueprint
from marmo.nn.rehearsal import Work, rehearsal
from marmo.pipelines.card import LatentCard, UpscalerCard
from marmo.pipelines.denoisers import denoiser
from marmo.pipelines.doubler import doubling
from marmo.pipelines.first_stage import tiling
from marmo.pipelines.hires import second_request
from marmo.pipelines.modes import Mode
from marmo.pipelines.painter import resolved
from marmo.pipelines.residence import FULL, MODES, Thrift
from marmo.pipelines.tiles import pieces
from marmo.pipelines.upscaler import enlarger
from marmo.pipelines.upscaler import tiling as upscaler_tiling
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
    return texts, denoising(card, request, dtype, thrift), decoding(card, request, dtype, thrift)


def expected_memory(
    cards: Sequence[LatentCard],
    request: ImageRequest,
    dtype: torch.dtype,
    mode: Mode = "full",
    upscaler: LatentCard | UpscalerCard | None = None,
) -> int:
    """Bytes at the peak of painting a resolved request, the program itself included; on the device alone if it is not
    the CPU, without the program.

    Args:
        cards: the model and, if the request has one, its refiner.
        upscaler: what enlarges between its two passes, if a model does.
    """
    parts = list[Need]()
    if request.hires.acts and upscaler is not None:
        parts += between(upscaler, cards[0], request, dtype, MODES[mode])
    if request.hires.acts:  # the second pass is the larger
        request = second_request(request, cards[0].defaults.size_multiple)
    parts += [need for card in cards for need in needs(card, request, dtype, MODES[mode])]
    if MODES[mode].idle == "device":
        return PROCESS_BYTES + sum(need.weights for need in parts) + max(need.work for need in parts)
    return PROCESS_BYTES + max(need.both for need in parts)


def between(
    upscaler: LatentCard | UpscalerCard, card: LatentCard, request: ImageRequest, dtype: torch.dtype, thrift: Thrift
) -> Sequence[Need]:
    """Of a model that enlarges what the first pass of a resolved request has painted."""
    height, width = latent_size(card, request)
    if isinstance(upscaler, UpscalerCard):
        factor = card.vae.factor
        return (enlarging(upscaler, height * factor, width * factor, request.num_images, dtype),)
    own = doubling(second_request(request, card.defaults.size_multiple), upscaler, 2 * height, 2 * width)
    texts, unet, _ = needs(upscaler, own, dtype, thrift)
    return texts, unet


def denoising(
    card: LatentCard, request: ImageRequest, dtype: torch.dtype, thrift: Thrift = FULL, steps: int | None = None
) -> Need:
    """Of the U-Net.

    Args:
        steps: how many are walked; all of the request's where it is not said.
    """
    height, width = latent_size(card, request)
    prompts = len(request.regions) + (1 if request.guidance_scale == 1 and request.sampler not in CFG_PP else 2)
    prompts += request.image_guidance_scale not in (None, 1)
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
    times = ceil(rows / together) * evaluations(request, steps)
    return Need(_weights(card, "unet", dtype), ledger.peak + _rearranged(unet) + kept, _times(ledger.calls, times))


def evaluations(request: ImageRequest, steps: int | None = None) -> int:
    """How often the U-Net is asked, at most, on a walk of these steps or of all."""
    return (resolved(request.steps) if steps is None else steps) * (2 if request.sampler in ASK_TWICE else 1)


def decoding(card: LatentCard, request: ImageRequest, dtype: torch.dtype, thrift: Thrift = FULL) -> Need:
    """Of the autoencoder, from latents to pictures."""
    height, width = latent_size(card, request)
    tiles = pieces(height, width, tiling(thrift.small_tiles))
    with blueprint(), torch.no_grad():
        vae = VAE(card.vae).to(dtype)
        z = torch.empty(1, card.vae.latent_channels, *tiles.size, dtype=dtype)
        with rehearsal() as ledger:
            vae.decode(z)
    pictures = 4 * 3 * height * width * card.vae.factor**2 * (request.num_images + 2)
    calls = _times(ledger.calls, tiles.number * request.num_images)
    return Need(_weights(card, "vae", dtype), ledger.peak + _rearranged(vae) + pictures, calls)


def encoding(card: LatentCard, height: int, width: int, count: int, dtype: torch.dtype, thrift: Thrift = FULL) -> Need:
    """Of the autoencoder, from so many pictures to latents of this height and width."""
    factor, tiles = card.vae.factor, pieces(height, width, tiling(thrift.small_tiles))
    with blueprint(), torch.no_grad():
        vae = VAE(card.vae).to(dtype)
        x = torch.empty(1, 3, tiles.size[0] * factor, tiles.size[1] * factor, dtype=dtype)
        with rehearsal() as ledger:
            vae.encode(x)
    calls = _times(ledger.calls, tiles.number * count)
    return Need(_weights(card, "vae", dtype), ledger.peak + _rearranged(vae), calls)


def enlarging(card: UpscalerCard, height: int, width: int, count: int, dtype: torch.dtype) -> Need:
    """Of a network of ESRGAN's kind, for so many pictures of these pixels."""
    tiles, scale = pieces(height, width, upscaler_tiling(card.config.scale)), card.config.scale
    fold = card.config.fold if isinstance(card.config, RRDBConfig) else 1
    with blueprint(), torch.no_grad():
        network = enlarger(card.config).to(dtype)
        high, wide = (ceil(side / fold) * fold for side in tiles.size)
        with rehearsal() as ledger:
            network(torch.empty(1, 3, high, wide, dtype=dtype))
    weights = sum(info.num_elements for info in card.tensors.infos.values()) * dtype.itemsize
    pictures = 4 * 3 * height * width * scale**2 * (count + 2)
    return Need(weights, ledger.peak + _rearranged(network) + pictures, _times(ledger.calls, tiles.number * count))


def latent_size(card: LatentCard, request: ImageRequest) -> tuple[int, int]:
    """Height and width of a resolved request's latents."""
    return resolved(request.height) // card.vae.factor, resolved(request.width) // card.vae.factor


def _rearranged(network: torch.nn.Module) -> int:
    """oneDNN takes a kernel in an order of its own; the copies live as long as the operation."""
    return 2 * max((weight.nbytes for weight in network.parameters()), default=0)


def _weights(card: LatentCard, slot: Slot, dtype: torch.dtype) -> int:
    return sum(info.num_elements for info in card.weights[slot].infos.values()) * dtype.itemsize


def _times(calls: Counter[Work], times: int) -> Counter[Work]:
    return Counter({work: count * times for work, count in calls.items()})
