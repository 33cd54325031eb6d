"""A Stable Diffusion 1 checkpoint with random weights: real names and real file format, at toy or at full size.

    python benchmarks/checkpoint.py out/stand-in.safetensors                 # 10 MB, for the demo and the tests
    python benchmarks/checkpoint.py out/sd1.safetensors --size full          # 2.1 GB, for the benchmarks

The same seed gives the same file on every machine.  It knows nothing, so what it paints is texture.
"""

import math
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

from marmo.catalog import DEFAULTS_KEY
from marmo.models.clip_text import VIT_L_14_TEXT, VIT_L_14_TEXT_TOY
from marmo.models.unet import SD1, SD1_TOY
from marmo.models.vae import KL_F8, KL_F8_TOY
from marmo.request import Defaults
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.forms import Network, NetworkConfig, expected, written
from marmo.weights.store import TensorInfo, Tensors

SIZES: Mapping[str, Mapping[Network, NetworkConfig]] = {
    "toy": {"text": VIT_L_14_TEXT_TOY, "unet": SD1_TOY, "vae": KL_F8_TOY},
    "full": {"text": VIT_L_14_TEXT, "unet": SD1, "vae": KL_F8},
}
TOY_DEFAULTS = Defaults(width=256, height=256, steps=12)


@dataclass(frozen=True)
class Config:
    """Make a Stable Diffusion 1 checkpoint with random weights."""

    output: tyro.conf.Positional[Path]
    """A .safetensors file, or a folder for diffusers' layout"""
    size: Literal["toy", "full"] = "toy"
    dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    seed: int = 0


def random_checkpoint(path: Path, size: str = "toy", dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """Write the file or folder; one tensor in memory at a time."""
    parts = {network: _part(network, config, dtype, seed) for network, config in SIZES[size].items()}
    metadata = {DEFAULTS_KEY: TOY_DEFAULTS.model_dump_json()} if size == "toy" else {}
    checkpoint = Checkpoint(path, "single file", parts, (), metadata=metadata)
    if path.suffix == ".safetensors":
        write_single_file(checkpoint, path)
    else:
        write_folder(checkpoint, path)
    return path


def _part(network: Network, config: NetworkConfig, dtype: torch.dtype, seed: int) -> Part:
    infos = {name: TensorInfo(dtype, shape) for name, shape in expected(config).items()}

    def read(name: str) -> Tensor:
        return _random(f"{network}.{name}", infos[name].shape, seed).to(dtype)

    return Part(written(network, "original"), config, Tensors(infos, read))


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Weights that keep the variance (He et al. 2015, without the gain); norms start at 1, biases at 0."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))


def main(config: Config) -> None:
    """Make it and say where it is."""
    path = random_checkpoint(config.output, config.size, getattr(torch, config.dtype), config.seed)
    print(f"{path}: random weights, not trained", file=sys.stderr)


if __name__ == "__main__":
    main(tyro.cli(Config))
