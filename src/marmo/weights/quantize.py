"""Weights in 8 bits: an int8 tensor and a float32 scale for each output channel, a quarter of the size.

    weight          int8     [out, ...]
    weight_scale    float32  [out, 1, ...]         weight * weight_scale is the weight

compressed-tensors names them so (https://github.com/neuralmagic/compressed-tensors, "int-quantized", strategy
"channel", symmetric).  They are for storing: what is read is expanded before any map sees it, and computed in floats.
"""

from pathlib import Path

import torch
from torch import Tensor

from marmo.weights.store import TensorInfo, Tensors, blaming

SUFFIX = "_scale"

LARGEST = 127
"""-128 is not used, so that a weight and its negative are stored alike."""


def quantized(tensors: Tensors) -> Tensors:
    """Matrices and convolutions in 8 bits; vectors and single numbers, which are few and delicate, in float32.

    A number is off by at most half a step, and a step is a 127th of the largest number of its channel.
    """
    infos: dict[str, TensorInfo] = {}
    for name, info in tensors.infos.items():
        if not _is_quantized(info):
            infos[name] = TensorInfo(torch.float32, info.shape) if info.dtype.is_floating_point else info
            continue
        if name + SUFFIX in tensors.infos:
            raise ValueError(f"{name!r} cannot have a scale: {name + SUFFIX!r} is there already")
        infos[name] = TensorInfo(torch.int8, info.shape)
        infos[name + SUFFIX] = TensorInfo(torch.float32, _scale_shape(info))

    def read(name: str) -> Tensor:
        stem = name if name in tensors.infos else name.removesuffix(SUFFIX)
        weight = tensors.read(stem)
        if infos[stem].dtype is not torch.int8 or not tensors.infos[stem].dtype.is_floating_point:
            return weight.to(infos[stem].dtype)
        scale = _scale(weight.float(), stem)
        return _rounded(weight.float(), scale) if name == stem else scale

    return Tensors(infos, read, tensors.metadata, tensors.maps)


def expanded(tensors: Tensors, path: Path) -> Tensors:
    """The same tensors with every int8 one as the float32 that it stands for; its scale is gone.

    Args:
        path: what the errors name.

    Raises `ValueError` for an int8 tensor without a scale that fits it, and, when it is read, for a scale that is not
    a finite number above 0.
    """
    stored = [name for name, info in tensors.infos.items() if info.dtype is torch.int8]
    if not stored:
        return tensors
    with blaming(path):
        for name in stored:
            _check(name, tensors)
    scales = {name + SUFFIX for name in stored}
    infos = {
        name: TensorInfo(torch.float32, info.shape) if info.dtype is torch.int8 else info
        for name, info in tensors.infos.items()
        if name not in scales
    }

    def read(name: str) -> Tensor:
        if tensors.infos[name].dtype is not torch.int8:
            return tensors.read(name)
        scale = tensors.read(name + SUFFIX).float()
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(f"{path}: {name + SUFFIX!r} holds a scale that is not a finite number above 0")
        return tensors.read(name).float() * scale

    return Tensors(infos, read, tensors.metadata, tensors.maps)


def _is_quantized(info: TensorInfo) -> bool:
    return info.dtype.is_floating_point and len(info.shape) >= 2 and info.num_elements > 0


def _scale(weight: Tensor, name: str) -> Tensor:
    """[out, ...] -> [out, 1, ...]; 1 for a channel of zeros, which any step holds."""
    if not bool(weight.isfinite().all()):
        raise ValueError(f"{name!r} has numbers that are not finite; it cannot be stored in 8 bits")
    steps = weight.abs().flatten(1).amax(1) / LARGEST
    return torch.where(steps > 0, steps, 1.0).view(-1, *(1 for _ in weight.shape[1:]))


def _rounded(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def _scale_shape(info: TensorInfo) -> tuple[int, ...]:
    return (info.shape[0], *(1 for _ in info.shape[1:]))


def _check(name: str, tensors: Tensors) -> None:
    scale = tensors.infos.get(name + SUFFIX)
    if scale is None:
        raise ValueError(f"{name!r} is int8, and there is no {name + SUFFIX!r} that says what it stands for")
    wanted = _scale_shape(tensors.infos[name]) if tensors.infos[name].shape else ()
    if scale.shape != wanted or not scale.dtype.is_floating_point:
        raise ValueError(f"{name + SUFFIX!r} is {scale.dtype} {list(scale.shape)} and must be floats {list(wanted)}")
