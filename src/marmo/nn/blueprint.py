"""Modules without numbers: names and shapes to plan with, and frames that a file's weights are put into."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def blueprint() -> Generator[None]:
    """Modules made inside lie on the meta device, and nothing initialises them.

    The meta device alone would still run their initialisation: nothing is drawn there, yet `normal_` brings in torch's
    compiler, which takes longer than all other modules together.
    """
    with torch.device("meta"), _WithoutInit():
        yield


class _WithoutInit(TorchFunctionMode):
    """`torch.nn.init` returns its tensors as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: tuple[type, ...],
        args: tuple[Tensor, ...] = (),
        kwargs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
