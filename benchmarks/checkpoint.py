"""A Stable Diffusion checkpoint with random weights: real names and real file format, at toy or at full size.

    python benchmarks/checkpoint.py out/stand-in.safetensors                 # 10 MB, for the demo and the tests
    python benchmarks/checkpoint.py out/sd1.safetensors --size full          # 2.1 GB, for the benchmarks
    python benchmarks/checkpoint.py out/xl.safetensors --family sdxl         # 30 MB
    python benchmarks/checkpoint.py out/x2 --family sd-x2                    # 12 MB, a folder alone
    python benchmarks/checkpoint.py out/hole.safetensors --task inpaint      # 10 MB, sees a mask and a masked picture

The same seed gives the same file on every machine.  It knows nothing, so what it paints is texture.
"""

import math
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

from marmo.cards import DEFAULTS_KEY
from marmo.models import latent_upscaler, unet
from marmo.models.clip_text import (
    VIT_BIGG_14_TEXT,
    VIT_BIGG_14_TEXT_TOY,
    VIT_H_14_TEXT,
    VIT_H_14_TEXT_TOY,
    VIT_L_14_TEXT,
    VIT_L_14_TEXT_TOY,
)
from marmo.models.vae import KL_F8, KL_F8_TOY, SD_X4_VAE, SD_X4_VAE_TOY, SDXL_VAE, SDXL_VAE_TOY
from marmo.request import Defaults
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.forms import Json, NetworkConfig, expected, written
from marmo.weights.kinds import SD1, SD2, SD_X2, SD_X4, SDXL, SDXL_REFINER, Kind, Slot, Task
from marmo.weights.store import TensorInfo, Tensors

FamilyName = Literal["sd1", "sd2", "sd-x2", "sd-x4", "sdxl", "sdxl-refiner"]
FAMILIES: Mapping[FamilyName, tuple[Kind, Mapping[str, Mapping[Slot, NetworkConfig]]]] = {
    "sd1": (
        SD1,
        {
            "toy": {"text": VIT_L_14_TEXT_TOY, "unet": unet.SD1_TOY, "vae": KL_F8_TOY},
            "full": {"text": VIT_L_14_TEXT, "unet": unet.SD1, "vae": KL_F8},
        },
    ),
    "sd2": (
        SD2,
        {
            "toy": {"text": VIT_H_14_TEXT_TOY, "unet": unet.SD2_TOY, "vae": KL_F8_TOY},
            "full": {"text": VIT_H_14_TEXT, "unet": unet.SD2, "vae": KL_F8},
        },
    ),
    "sd-x2": (
        SD_X2,
        {
            "toy": {"text": VIT_L_14_TEXT_TOY, "unet": latent_upscaler.SD_X2_TOY, "vae": KL_F8_TOY},
            "full": {"text": VIT_L_14_TEXT, "unet": latent_upscaler.SD_X2, "vae": KL_F8},
        },
    ),
    "sd-x4": (
        SD_X4,
        {
            "toy": {"text": VIT_H_14_TEXT_TOY, "unet": unet.SD_X4_TOY, "vae": SD_X4_VAE_TOY},
            "full": {"text": VIT_H_14_TEXT, "unet": unet.SD_X4, "vae": SD_X4_VAE},
        },
    ),
    "sdxl": (
        SDXL,
        {
            "toy": {
                "text": VIT_L_14_TEXT_TOY,
                "text2": VIT_BIGG_14_TEXT_TOY,
                "unet": unet.SDXL_TOY,
                "vae": SDXL_VAE_TOY,
            },
            "full": {"text": VIT_L_14_TEXT, "text2": VIT_BIGG_14_TEXT, "unet": unet.SDXL, "vae": SDXL_VAE},
        },
    ),
    "sdxl-refiner": (
        SDXL_REFINER,
        {
            "toy": {"text2": VIT_BIGG_14_TEXT_TOY, "unet": unet.SDXL_REFINER_TOY, "vae": SDXL_VAE_TOY},
            "full": {"text2": VIT_BIGG_14_TEXT, "unet": unet.SDXL_REFINER, "vae": SDXL_VAE},
        },
    ),
}
CHANNELS: Mapping[Task, int] = {"paint": 4, "inpaint": 9, "edit": 8, "upscale": 7, "upscale_latents": 8}
"""That the U-Net sees: latents, and what lies beside them."""
SIZES = FAMILIES["sd1"][1]
TOY_DEFAULTS = Defaults(width=256, height=256, steps=12)


@dataclass(frozen=True)
class Config:
    """Make a checkpoint with random weights."""

    output: tyro.conf.Positional[Path]
    """A .safetensors file, or a folder for diffusers' layout"""
    size: Literal["toy", "full"] = "toy"
    family: FamilyName = "sd1"
    task: Task = "paint"
    dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    seed: int = 0


def random_checkpoint(
    path: Path,
    size: str = "toy",
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
    family: FamilyName = "sd1",
    scheduler: Json | None = None,
    task: Task = "paint",
) -> Path:
    """Write the file or folder; one tensor in memory at a time.

    Args:
        scheduler: what differs from the family's own noise and prediction, in diffusers' words.
        task: from words, under a mask (Stable Diffusion's inpainting models), or by instruction (instruct-pix2pix).
    """
    kind, sizes = FAMILIES[family]
    parts = {slot: _part(kind, slot, _suited(config, task), dtype, seed) for slot, config in sizes[size].items()}
    metadata = {DEFAULTS_KEY: TOY_DEFAULTS.model_dump_json(exclude_unset=True)} if size == "toy" else {}
    checkpoint = Checkpoint(path, "single file", parts, (), kind, scheduler=scheduler or {}, metadata=metadata)
    if path.suffix == ".safetensors":
        write_single_file(checkpoint, path)
    else:
        write_folder(checkpoint, path)
    return path


def _suited(config: NetworkConfig, task: Task) -> NetworkConfig:
    if task == "paint" or not isinstance(config, unet.UNetConfig):
        return config
    return replace(config, in_channels=CHANNELS[task])


def _part(kind: Kind, slot: Slot, config: NetworkConfig, dtype: torch.dtype, seed: int) -> Part:
    infos = {name: TensorInfo(dtype, shape) for name, shape in expected(config).items()}

    def read(name: str) -> Tensor:
        return _random(f"{slot}.{name}", infos[name].shape, seed).to(dtype)

    network = kind.places[slot].network
    form = (
        written("text" if slot == "text2" else slot, "original") if network is None else written(network, "diffusers")
    )
    return Part(form, config, Tensors(infos, read))


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Weights that keep the variance (He et al. 2015, without the gain); norms start at 1, biases at 0."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1 and not name.endswith("frequencies"):
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))


def main(config: Config) -> None:
    """Make it and say where it is."""
    path = random_checkpoint(
        config.output, config.size, getattr(torch, config.dtype), config.seed, config.family, task=config.task
    )
    print(f"{path}: random weights, not trained", file=sys.stderr)


if __name__ == "__main__":
    main(tyro.cli(Config))
