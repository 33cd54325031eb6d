"""The networks that can stand in a latent model's place for a U-Net; all are asked in the same way."""

from marmo.models.latent_upscaler import LatentUpscaler, LatentUpscalerConfig
from marmo.models.unet import UNet
from marmo.weights.kinds import DenoiserConfig

Denoiser = UNet | LatentUpscaler


def denoiser(config: DenoiserConfig) -> Denoiser:
    """The network of a config."""
    return LatentUpscaler(config) if isinstance(config, LatentUpscalerConfig) else UNet(config)
