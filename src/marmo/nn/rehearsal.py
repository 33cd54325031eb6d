"""What a network will need before it runs: a run with tensors that have shapes and no numbers, and a ledger beside it.

Memory is counted as the bytes of the tensors that are alive together; work as calls of the three operations that
`nn/engine.py` is the door to.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["convolution", "product", "attention"]


class Work(NamedTuple):
    """One operation on tensors of these shapes."""

    kind: Kind
    shapes: tuple[tuple[int, ...], ...]
    """What is convolved or multiplied and the weight; or queries, keys and values."""
    stride: int = 1

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        first, second = self.shapes[:2]
        if self.kind == "attention":
            return 2 * prod(first[:-1]) * second[-2] * (first[-1] + self.shapes[2][-1])
        if self.kind == "product":
            return 2 * prod(first[:-1]) * prod(second)
        return 2 * first[0] * (first[2] // self.stride) * (first[3] // self.stride) * prod(second)


@dataclass
class Ledger:
    """What a rehearsal needed."""

    peak: int = 0
    """Bytes of the tensors alive together, at most; those made before the rehearsal do not count."""
    calls: Counter[Work] = field(default_factory=Counter[Work])
    """How often each work was asked for."""
    alive: int = 0


@contextmanager
def rehearsal() -> Generator[Ledger]:
    """Networks that run inside, on the meta device, write into the ledger."""
    ledger = Ledger()
    with _Words(ledger), _Storages(ledger):
        yield ledger


class _Storages(TorchDispatchMode):
    """Counts the memory that results take, until nobody holds them any more."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.ledger, self._seen = ledger, set[int]()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage(), before)
        return result

    def _note(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = id(storage)
        if key in self._seen or key in before:
            return
        self._seen.add(key)
        self.ledger.alive += storage.nbytes()
        self.ledger.peak = max(self.ledger.peak, self.ledger.alive)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, num_bytes: int) -> None:
        self._seen.discard(key)
        self.ledger.alive -= num_bytes


class _Words(TorchFunctionMode):
    """Notes what is asked of the engine's three operations; attention as the kernels do it that keep no scores."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.ledger.calls[Work("attention", tuple(tuple(part.shape) for part in args[:3]))] += 1
            return torch.empty_like(args[0])
        result = func(*args, **(kwargs or {}))
        if func is F.linear:
            self.ledger.calls[Work("product", (tuple(args[0].shape), tuple(args[1].shape)))] += 1
        if func is F.conv2d:
            x, weight = args[:2]
            stride = round(x.shape[-1] / result.shape[-1])
            self.ledger.calls[Work("convolution", (tuple(x.shape), tuple(weight.shape)), stride)] += 1
        return result
