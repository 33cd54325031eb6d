"""Processes that train together: each holds the whole network and its part of every batch.

`torchrun` starts them.  Gradients are averaged by one call after the backward pass, without a wrapper around the
network: several forward passes, several losses and accumulation need no special case.  With one process everything
here returns at once.
"""

# pyright: reportUnknownMemberType=false
# torch.distributed names the types of few of its arguments.

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 1 << 24
"""Numbers that travel together: 64 MB of float32."""


@contextmanager
def joined(device: torch.device) -> Generator[None]:
    """The group that torchrun's environment describes, until the block ends; nothing where there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Go on when every rank is here."""
    if num_ranks() > 1:
        dist.barrier()


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks, in their order, with gradients for each.  B ... -> ranks * B ..."""
    if num_ranks() == 1:
        return x
    return cast(Tensor, _Gather.apply(x))


class _Gather(torch.autograd.Function):
    """Every rank's loss depends on every rank's rows, so a row's gradient is the sum of what all ranks found for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(num_ranks())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(num_ranks())[rank()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean of all ranks' gradients in place of each; a parameter without one must have none on every rank."""
    if num_ranks() == 1:
        return
    for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        dist.all_reduce(flat)
        parts = torch.split(flat / num_ranks(), [grad.numel() for grad in bucket])
        for grad, part in zip(bucket, parts, strict=True):
            grad.copy_(part.view_as(grad))


def means(values: Iterable[float], device: torch.device) -> list[float]:
    """The means of all ranks' values, on every rank."""
    if num_ranks() == 1:
        return list(values)
    total = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(value) / num_ranks() for value in total]


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Rank 0's numbers into every rank's tensors."""
    if num_ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def agree(number: int, what: str, device: torch.device) -> None:
    """`ValueError` unless all ranks have the same number: do they see the same folder?"""
    if num_ranks() > 1:
        numbers = [int(value) for value in gather(torch.tensor([number], device=device))]
        if len(set(numbers)) > 1:
            raise ValueError(f"the ranks do not agree on {what}: {numbers}; do they share one folder?")


def _buckets(grads: list[Tensor]) -> Generator[list[Tensor]]:
    """Runs of one dtype that make about `BUCKET` numbers together."""
    bucket: list[Tensor] = []
    for grad in grads:
        if bucket and (grad.dtype != bucket[0].dtype or sum(part.numel() for part in bucket) > BUCKET):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket
