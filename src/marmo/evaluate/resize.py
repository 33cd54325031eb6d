"""The ways in which published measurements bring pictures to the size of their network.

Parmar et al. 2022 (https://arxiv.org/abs/2104.11222) show that the way alone moves a Frechet distance by several
points, so every feature space says which one it uses.  A rule takes a picture, uint8 3 H W, and a side S, and gives
float32 3 S S in [0, 255]:

    clean         Pillow's bicubic on float channels, not rounded: clean-fid
    pillow        Pillow's bicubic, rounded to 256 levels: dgm-eval (FD-DINOv2)
    torch         torch's bicubic, antialiased, not rounded: EDM2's fast FD-DINOv2
    pytorch-fid   torch's bilinear, not antialiased: pytorch-fid
    tensorflow    TensorFlow 1's bilinear, whose samples lie in the pixels' corners: the first FID, torch-fidelity
    square        the middle square, then `pillow`: CMMD
    clip          the shorter side by Pillow's bicubic, then the middle square: CLIP's own preprocessing

The first five stretch a picture that is no square; the last two cut it.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

RuleName = Literal["clean", "pillow", "torch", "pytorch-fid", "tensorflow", "square", "clip"]
Rule = Callable[[Tensor, int], Tensor]

_BICUBIC = Image.Resampling.BICUBIC


def clean(picture: Tensor, side: int) -> Tensor:
    """Parmar et al. 2022, section 3.1."""
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in picture]  # pyright: ignore[reportUnknownMemberType]
    resized = [np.asarray(channel.resize((side, side), _BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255)  # pyright: ignore[reportUnknownMemberType]


def pillow(picture: Tensor, side: int) -> Tensor:
    """Pillow's bicubic; where it makes smaller it averages."""
    return _from_pillow(_to_pillow(picture).resize((side, side), _BICUBIC))


def antialiased(picture: Tensor, side: int) -> Tensor:
    """torch's imitation of Pillow, which runs on any device."""
    return F.interpolate(picture[None].float(), (side, side), mode="bicubic", antialias=True)[0]


def pytorch_fid(picture: Tensor, side: int) -> Tensor:
    """Four neighbours, however many pixels lie between two samples."""
    return F.interpolate(picture[None].float(), (side, side), mode="bilinear")[0]


def tensorflow(picture: Tensor, side: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: sample i is at i * H / S, not in the middle of its share."""
    x = picture.float()
    for axis in (2, 1):
        length = x.shape[axis]
        place = torch.arange(side, dtype=torch.float32) * (length / side)  # S
        low = place.long()
        high = (low + 1).clamp_max(length - 1)
        share = (place - low).reshape(-1, *(1,) * (2 - axis))
        x = x.index_select(axis, low).lerp(x.index_select(axis, high), share)
    return x


def square(picture: Tensor, side: int) -> Tensor:
    """The middle of the longer side first, so the shorter one is kept whole."""
    height, width = picture.shape[1:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return pillow(picture[:, top : top + short, left : left + short], side)


def clip(picture: Tensor, side: int) -> Tensor:
    """`Resize` and `CenterCrop` of torchvision on a Pillow picture, as openai/CLIP has them in clip.py."""
    height, width = picture.shape[1:]
    short = min(height, width)
    height, width = side * height // short, side * width // short
    resized = _from_pillow(_to_pillow(picture).resize((width, height), _BICUBIC))
    top, left = round((height - side) / 2), round((width - side) / 2)
    return resized[:, top : top + side, left : left + side]


RULES: Mapping[RuleName, Rule] = {
    "clean": clean,
    "pillow": pillow,
    "torch": antialiased,
    "pytorch-fid": pytorch_fid,
    "tensorflow": tensorflow,
    "square": square,
    "clip": clip,
}


def _to_pillow(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())  # pyright: ignore[reportUnknownMemberType]


def _from_pillow(picture: Image.Image) -> Tensor:
    """-> float32 3 H W."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()  # pyright: ignore[reportUnknownMemberType]
