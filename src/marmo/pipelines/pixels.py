"""The edge between pictures and tensors: uint8 HWC outside, B 3 H W in [-1, 1] inside."""

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor


def to_tensor(picture: Image.Image, width: int, height: int) -> Tensor:
    """An RGB picture -> 1 3 H W in [-1, 1], float32; resampled (Lanczos) where its size is another."""
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.tensor(np.asarray(picture.convert("RGB")))
    return rearrange(pixels, "h w c -> 1 c h w").float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """B 3 H W in [-1, 1] -> B RGB pictures; rounded to the nearest level, as diffusers does."""
    levels = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(device="cpu", dtype=torch.uint8)
    return [Image.fromarray(picture) for picture in rearrange(levels, "b c h w -> b h w c").contiguous().numpy()]
