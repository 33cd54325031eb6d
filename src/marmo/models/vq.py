"""The autoencoder with a codebook: every latent is one of a few thousand words.

Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis"; the VQ-regularised first stages of Rombach
et al. 2022 are of this form.

Shapes: B batch, H W height and width, F the factor, Z latent channels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from marmo.models.vae import Decoder, Encoder, VAEConfig
from marmo.nn.engine import Conv2d
from marmo.nn.quantize import Codebook, Quantized


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """An autoencoder and the words of its codebook; its `latent_scale` is for words, too."""

    vae: VAEConfig
    num_words: int = 8192


class VQ(nn.Module):
    """Encoder, codebook, decoder."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        latents = config.vae.latent_channels
        self.encoder = Encoder(config.vae, latents)
        self.to_codes = Conv2d(latents, latents, 1)
        self.codebook = Codebook(config.num_words, latents)
        self.from_codes = Conv2d(latents, latents, 1)
        self.decoder = Decoder(config.vae)

    def encode(self, x: Tensor) -> Quantized:
        """Pixels B 3 H W in [-1, 1] -> words for their latents."""
        return self.codebook(self.to_codes(self.encoder(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Words B Z H/F W/F -> pixels B 3 H W, about [-1, 1]."""
        return self.decoder(self.from_codes(z))
