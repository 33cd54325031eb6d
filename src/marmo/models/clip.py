"""CLIP: texts and pictures as vectors of one space, near each other where they belong together.

Radford et al. 2021 (https://arxiv.org/abs/2103.00020), figures 1 and 3.

Shapes: B batch, T tokens, W width, H W height and width, S side of the image tower's pictures, E width of the space.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.models.clip_resnet import RN50_IMAGE, ClipResNet, ClipResNetConfig
from marmo.models.clip_text import VIT_B_32_TEXT, VIT_L_14_TEXT, ClipText, ClipTextConfig
from marmo.models.clip_vision import VIT_B_32_IMAGE, VIT_L_14_336_IMAGE, VIT_L_14_IMAGE, ClipVision, ClipVisionConfig
from marmo.nn.engine import Linear

# Of red, green and blue in [0, 1], over the pictures that CLIP was trained with (openai/CLIP, clip/clip.py).
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

INITIAL_TEMPERATURE = 0.07                # Radford et al. 2021, section 2.5


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Two towers; the type of `image` says which kind of image tower."""

    text: ClipTextConfig
    image: ClipVisionConfig | ClipResNetConfig


VIT_L_14 = ClipConfig(text=VIT_L_14_TEXT, image=VIT_L_14_IMAGE)
VIT_L_14_336 = ClipConfig(text=VIT_L_14_TEXT, image=VIT_L_14_336_IMAGE)
VIT_B_32 = ClipConfig(text=VIT_B_32_TEXT, image=VIT_B_32_IMAGE)
RN50 = ClipConfig(text=VIT_B_32_TEXT, image=RN50_IMAGE)


class Clip(nn.Module):
    """Vectors of length 1 from either tower, and the scale of their dot products."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text = ClipText(config.text)
        self.text_proj = Linear(config.text.width, config.image.embed_width, bias=False)
        self.image = _image_tower(config.image)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids B T -> B E of length 1."""
        pooled = self.text.pool(self.text(ids), ids)                                  # B W
        return F.normalize(self.text_proj(pooled), dim=-1)                            # B E

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels B 3 S S from `preprocess` -> B E of length 1."""
        size = self.config.image.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pixels have the shape {list(pixels.shape)}; this CLIP takes [batch, 3, {size}, {size}]")
        return F.normalize(self.image(pixels), dim=-1)                                # B E

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Texts A T and pictures B 3 S S -> logits B A: per picture, how well each text fits."""
        cosines = self.encode_image(pixels) @ self.encode_text(ids).T                 # B A
        return self.logit_scale.exp() * cosines


def preprocess(pixels: Tensor, size: int) -> Tensor:
    """Pictures as an image tower takes them: the shorter side to `size`, the middle of the longer one, normalised.

    Args:
        pixels: B 3 H W in [-1, 1].
        size: `image_size` of the tower.

    Returns:
        B 3 S S, about zero mean and unit variance.  OpenAI's code rounds to 256 levels after resizing; this does not.
    """
    height, width = pixels.shape[2:]
    short = min(height, width)
    sides = [size * height // short, size * width // short]
    x = F.interpolate(pixels, sides, mode="bicubic", antialias=True)                  # B 3 H' W'
    x = _centre(x, size).clamp(-1, 1)                                                 # B 3 S S
    mean = x.new_tensor(PIXEL_MEAN)[:, None, None]                                    # 3 1 1
    std = x.new_tensor(PIXEL_STD)[:, None, None]
    return ((x + 1) / 2 - mean) / std                                                 # B 3 S S


def _centre(x: Tensor, size: int) -> Tensor:
    """The middle square.  B C H W -> B C S S."""
    top, left = (round((side - size) / 2) for side in x.shape[2:])
    return x[:, :, top : top + size, left : left + size]


def _image_tower(config: ClipVisionConfig | ClipResNetConfig) -> ClipVision | ClipResNet:
    return ClipVision(config) if isinstance(config, ClipVisionConfig) else ClipResNet(config)
