"""Small pictures of latents in no time: with a tiny decoder, or with the autoencoder's own colours.

Shapes: B batch, Z latent channels, H W height and width of the latents.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from marmo.models.tiny_decoder import TinyDecoder
from marmo.models.vae import VAE
from marmo.pipelines import first_stage
from marmo.pipelines.pixels import to_pictures

Preview = Callable[[Tensor], list[Image.Image]]
"""Latents B Z H W -> B pictures."""

PATCH = 8
"""Latents along the side of the flat patches whose colours are measured."""


def tiny_preview(decoder: TinyDecoder) -> Preview:
    """Pictures as large as the final ones, a little soft."""

    def preview(latents: Tensor) -> list[Image.Image]:
        return to_pictures(decoder(latents.to(decoder.conv_in.weight.dtype)))

    return preview


def linear_preview(vae: Callable[[], VAE]) -> Preview:
    """Pictures of one pixel per latent: the colour that the decoder gives each channel alone, added up.

    Needs no weights beside the model's own: flat patches of each channel are decoded once, for the first preview.

    Args:
        vae: brings the autoencoder.
    """
    colours: list[Tensor] = []

    def preview(latents: Tensor) -> list[Image.Image]:
        if not colours:
            colours.append(_colours(vae()))
        matrix = colours[0].to(latents)
        pixels = torch.einsum("bzhw,zc->bchw", F.pad(latents, (0, 0, 0, 0, 0, 1), value=1.0), matrix)
        return to_pictures(pixels)

    return preview


def _colours(vae: VAE) -> Tensor:
    """Mean colours of flat patches at plus and minus 1 in each channel, as a linear map.  Z + 1, 3; last the bias."""
    channels = vae.config.latent_channels
    flat = torch.cat([torch.eye(channels), -torch.eye(channels)])  # 2Z Z
    patches = flat[:, :, None, None].expand(-1, -1, PATCH, PATCH)
    with first_stage.widened(vae):  # half precision may be too narrow
        means = first_stage.decode(vae, patches.to(vae.from_latents.weight.device)).mean(dim=(2, 3)).cpu()
    up, down = means.chunk(2)  # Z 3 each
    return torch.cat([(up - down) / 2, means.mean(dim=0, keepdim=True)])  # Z+1 3
