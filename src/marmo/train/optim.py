"""Optimisers and the rate at which they learn; time is counted in images, so a rate outlives a change of batch size."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn
from torch.optim import AdamW

Schedule = Literal["constant", "linear", "cosine"]
Scaling = Literal["none", "linear", "sqrt"]


def adamw(
    model: nn.Module,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    shares: Mapping[nn.Module, float] | None = None,
    fused: bool | None = None,
) -> AdamW:
    """AdamW whose decay spares norms, biases and single numbers: whatever has less than two axes.

    Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101).  The rate comes with every step.

    Args:
        shares: parts of the model that learn at a share of the rate.
        fused: whether one pass over memory does it all; not by default.
    """
    share_of = {parameter: share for part, share in (shares or {}).items() for parameter in _trained(part)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in _trained(model):
        groups.setdefault((share_of.get(parameter, 1.0), parameter.ndim >= 2), []).append(parameter)
    settings = [
        {"params": members, "weight_decay": weight_decay if decays else 0.0, "share": share}
        for (share, decays), members in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]
    return AdamW(settings, lr=0.0, betas=betas, eps=eps, fused=fused)


def _trained(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def rate(
    peak: float, images: int, total: int, schedule: Schedule = "constant", warmup: int = 0, tail: int = 0
) -> float:
    """The learning rate after `images` of `total`.

    Args:
        schedule: what happens between the warm-up and the end: nothing, a straight line to 0, half a cosine to 0.
        warmup: images over which the rate rises from 0.
        tail: images before the end over which it falls to 0 in a straight line, whatever the schedule.
    """
    return peak * rise(images, 0, warmup) * _fall(schedule, images, warmup, total) * line(images, total - tail, total)


def rise(images: int, start: int, end: int) -> float:
    """0 before `start`, 1 after `end`, a straight line between."""
    if images >= end:
        return 1.0
    return max(0.0, (images - start) / (end - start)) if start < end else 0.0


def line(images: int, start: int, end: int) -> float:
    """1 before `start`, 0 after `end`, a straight line between; where they are one, always 1."""
    return 1.0 if start >= end else 1 - rise(images, start, end)


def cosine(images: int, start: int, end: int) -> float:
    """1 before `start`, 0 after `end`, half a cosine between (Loshchilov and Hutter 2017, equation 5)."""
    return (1 + math.cos(math.pi * rise(images, start, end))) / 2


def _fall(schedule: Schedule, images: int, start: int, end: int) -> float:
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return line(images, start, end)
        case "cosine":
            return cosine(images, start, end)


def scaled(lr: float, batch_size: int, reference: int, scaling: Scaling) -> float:
    """The rate for `batch_size` images, when `lr` was found with `reference`.

    Linear: Goyal et al. 2017 (https://arxiv.org/abs/1706.02677).  Square root: for Adam, Malladi et al. 2022
    (https://arxiv.org/abs/2205.10287).
    """
    match scaling:
        case "none":
            return lr
        case "linear":
            return lr * batch_size / reference
        case "sqrt":
            return lr * math.sqrt(batch_size / reference)
