"""What a picture will cost before it is painted: memory from sizes, time from one measured step."""

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from marmo.diffusion.samplers import ASK_TWICE, CFG_PP
from marmo.models.unet import UNet
from marmo.models.vae import VAE
from marmo.nn.blueprint import blueprint
from marmo.pipelines import first_stage
from marmo.pipelines.card import LatentCard
from marmo.pipelines.events import Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import LATENTS_PER_CALL, resolved
from marmo.request import ImageRequest

# Numbers held at the peak, in units of the widest layer's output; measured with Stable Diffusion 1's networks, see
# `benchmarks/memory.py`.
UNET_COPIES = 24
DECODER_COPIES = 4
PROCESS_BYTES = 350 << 20
"""Python, torch and its threads before any weight."""

PROMPT_TOKENS = 77


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak, the program itself included; seconds from the first step to the last picture."""

    memory: int
    seconds: float


def forecast(model: LatentDiffusion, request: ImageRequest) -> Forecast:
    """Paint one step of a request (a second one where the first only warms up) and reckon the rest from it."""
    whole = model.resolve(request)
    if whole.hires.acts or model.card.task == "upscale":
        raise ValueError("--estimate knows one pass of a model that paints; leave hires out, or an upscaler")
    evaluations = (len(model.sigmas(whole)) - 1) * (2 if whole.sampler in ASK_TWICE else 1)
    step = _measure_step(model, whole)
    decoding = step * _decoder_flops(model.card, whole) / _step_flops(model.card, whole)
    others = sum(_num_weights(painter.card) for painter in model.painters[1:]) * model.dtype.itemsize
    return Forecast(expected_memory(model.card, whole, model.dtype) + others, step * evaluations + decoding)


def expected_memory(card: LatentCard, request: ImageRequest, dtype: torch.dtype) -> int:
    """Bytes at the peak of painting a resolved request: weights, and the larger of a step and a decoding."""
    latents = _latents(card, request)
    rows = min(_rows(request), max(1, LATENTS_PER_CALL // latents))
    step = UNET_COPIES * rows * latents * card.unet.channels[0]
    piece = min(latents, first_stage.WHOLE) * card.vae.factor**2
    decoding = DECODER_COPIES * piece * card.vae.channels[min(1, len(card.vae.channels) - 1)]
    return PROCESS_BYTES + dtype.itemsize * (_num_weights(card) + max(step, decoding))


def _num_weights(card: LatentCard) -> int:
    return sum(info.num_elements for part in card.weights.values() for info in part.infos.values())


def _measure_step(model: LatentDiffusion, request: ImageRequest) -> float:
    marks: list[float] = []
    for event in model.stream(request):
        marks.append(time.perf_counter())
        if isinstance(event, Step) and (event.index == 1 or event.total == 1):
            break
    return marks[-1] - marks[-2]


def _step_flops(card: LatentCard, request: ImageRequest) -> int:
    with blueprint():
        unet = UNet(card.unet)
        x = torch.empty(_rows(request), card.unet.in_channels, *_size(card, request))
        context = unet.project(torch.empty(1, PROMPT_TOKENS, card.unet.context_width))
        vector = torch.empty(1, card.unet.vector_width)
        with FlopCounterMode(display=False) as counter:
            unet(x, torch.empty(len(x)), context, vector)
    return counter.get_total_flops()


def _decoder_flops(card: LatentCard, request: ImageRequest) -> int:
    with blueprint():
        vae = VAE(card.vae)
        with FlopCounterMode(display=False) as counter:
            vae.decode(torch.empty(request.num_images, card.vae.latent_channels, *_size(card, request)))
    return counter.get_total_flops()


def _rows(request: ImageRequest) -> int:
    regions = len(request.regions)
    return request.num_images * (regions + (1 if request.guidance_scale == 1 and request.sampler not in CFG_PP else 2))


def _size(card: LatentCard, request: ImageRequest) -> tuple[int, int]:
    return resolved(request.height) // card.vae.factor, resolved(request.width) // card.vae.factor


def _latents(card: LatentCard, request: ImageRequest) -> int:
    height, width = _size(card, request)
    return height * width
