"""What a picture will cost before it is painted: memory from a rehearsal, time from a short probe of the machine.

The probe runs, with random numbers, the heaviest convolutions, products and attentions of the request and reckons the
rest from their rates.  No weight is read and no step is painted.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import Parameter

from marmo.nn.engine import Conv2d, Linear, attend
from marmo.nn.rehearsal import Kind, Work
from marmo.pipelines.card import LatentCard
from marmo.pipelines.footprint import (
    PROCESS_BYTES,
    Need,
    between,
    decoding,
    denoising,
    encoding,
    enlarging,
    expected_memory,
    latent_size,
)
from marmo.pipelines.hires import second_request
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.residence import MODES
from marmo.pipelines.upscaler import Upscaler, picture_size
from marmo.request import ImageRequest

PROBED = 2
"""Of each kind of work, this many that take the most arithmetic are tried."""
BESIDE = 1.12
"""Norms, activations, sums and copies, beside the three operations that are probed; of the whole time with Stable
Diffusion 1 on a CPU they are 8 % in the U-Net and 13 % in the decoder."""


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak, the program itself included; seconds from the first step to the last picture."""

    memory: int
    seconds: float


def forecast(model: LatentDiffusion | Upscaler, request: ImageRequest) -> Forecast:
    """What a request will take."""
    whole = model.resolve(request)
    if isinstance(model, Upscaler):
        width, height = picture_size(whole)
        needs = [enlarging(one.card, height, width, 1, model.dtype) for one in model.models]
        weights, work = sum(need.weights for need in needs), max(need.work for need in needs)
        return Forecast(PROCESS_BYTES + weights + work, _seconds(_together(needs), model.device, model.dtype))
    mode = model.residence.mode
    cards = [painter.card for painter in model.painters[: 2 if whole.refiner.model else 1]]
    upscaler = model.upscaler.card if model.upscaler is not None and whole.hires.model else None
    memory = expected_memory(cards, whole, model.dtype, mode, upscaler)
    return Forecast(memory, _seconds(_together(stations(model, whole)), model.device, model.dtype))


def stations(model: LatentDiffusion, whole: ImageRequest) -> Iterator[Need]:
    """What a resolved request asks of the networks on its way, one after the other; texts take next to no time."""
    card, dtype, thrift = model.card, model.dtype, MODES[model.residence.mode]
    if whole.init_image is not None and card.task != "upscale":
        yield encoding(card, *_seen_size(card, whole), 1, dtype, thrift)
    yield denoising(card, whole, dtype, thrift, len(model.sigmas(whole)) - 1)
    if not whole.hires.acts:
        yield decoding(card, whole, dtype, thrift)
        return
    second = second_request(whole, card.defaults.size_multiple)
    if model.upscaler is not None and whole.hires.model:
        yield from between(model.upscaler.card, card, whole, dtype, thrift)
    paints, through_pixels = bool(second.strength), not model.enlarges_latents(whole)
    if through_pixels:
        yield decoding(card, whole, dtype, thrift)
    if through_pixels and paints:
        yield encoding(card, *latent_size(card, second), whole.num_images, dtype, thrift)
    if paints:
        yield denoising(card, second, dtype, thrift)
    if paints or not through_pixels:
        yield decoding(card, second, dtype, thrift)


def _together(needs: Iterable[Need]) -> Counter[Work]:
    """All calls; `sum` of counters would begin with a number."""
    calls = Counter[Work]()
    for need in needs:
        calls += need.calls
    return calls


def _seen_size(card: LatentCard, whole: ImageRequest) -> tuple[int, int]:
    """Height and width of the latents of the picture that the request starts from, as the network sees it."""
    height, width = latent_size(card, whole)
    return (height // 2, width // 2) if card.task == "upscale_latents" else (height, width)


def _seconds(calls: Counter[Work], device: torch.device, dtype: torch.dtype) -> float:
    """All those calls, at the rates of the heaviest of each kind."""
    total = 0.0
    for kind, probe in PROBES.items():
        flops = Counter({work: work.flops * count for work, count in calls.items() if work.kind == kind})
        tried = [work for work, _ in flops.most_common(PROBED)]
        seconds = sum(_time(probe(work, device, dtype)) * calls[work] for work in tried)
        total += seconds * flops.total() / max(1, sum(flops[work] for work in tried))
    return total * BESIDE


def _time(run: Callable[[], Tensor]) -> float:
    """Seconds of a call, the quicker of two after one that warms up: other programs come in between."""
    marks = [time.perf_counter()]
    for _ in range(3):
        float(run().flatten()[0])  # a device that runs ahead is waited for
        marks.append(time.perf_counter())
    return min(after - before for before, after in pairwise(marks[1:]))


def _convolution(work: Work, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    x, weight = _random(work, device, dtype)
    out, channels, height, width = weight.shape
    conv = Conv2d(channels, out, (height, width), work.stride, (height // 2, width // 2), bias=False)
    conv.weight = Parameter(weight, requires_grad=False)
    x = x.contiguous(memory_format=torch.channels_last)
    return lambda: conv(x)


def _product(work: Work, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    x, weight = _random(work, device, dtype)
    linear = Linear(*reversed(weight.shape), bias=False)
    linear.weight = Parameter(weight, requires_grad=False)
    return lambda: linear(x)


def _attention(work: Work, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    q, k, v = _random(work, device, dtype)
    return lambda: attend(q, k, v)


def _random(work: Work, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in work.shapes]


PROBES: Mapping[Kind, Callable[[Work, torch.device, torch.dtype], Callable[[], Tensor]]] = {
    "convolution": _convolution,
    "product": _product,
    "attention": _attention,
}
