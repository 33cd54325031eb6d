"""Between two passes: latents twice as wide and high, painted by a latent upscaler, without a way through pixels.

Shapes: B pictures, C latent channels, H W height and width of the small latents.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from marmo.diffusion import samplers, schedules
from marmo.diffusion.sources import NoiseSource
from marmo.pipelines.beginning import doubled
from marmo.pipelines.card import LatentCard
from marmo.pipelines.painter import Ask, Painter, resolved
from marmo.pipelines.residence import Residence
from marmo.request import ImageRequest


class Doubler(Painter):
    """A latent upscaler that works for another model; of its own networks the autoencoder is not needed."""

    def __init__(
        self, card: LatentCard, device: torch.device, dtype: torch.dtype, residence: Residence | None = None
    ) -> None:
        assert card.task == "upscale_latents", "another model does not double"
        super().__init__(card, device, dtype, residence)
        self._parts = {name: part for name, part in self._parts.items() if name != "vae"}

    def double(self, latents: Tensor, request: ImageRequest, source: NoiseSource) -> Generator[Ask, None, Tensor]:
        """Latents B C H W -> B C 2H 2W, with this model's own steps, sampler and guidance.

        Args:
            request: resolved; what the pictures show, and how its edges meet.
        """
        own = doubling(request, self.card, 2 * latents.shape[2], 2 * latents.shape[3])
        sigmas = schedules.schedule(resolved(own.schedule), self.table, resolved(own.steps))
        guidance, _ = self.guidance(own, sigmas, doubled(latents))
        size = (latents.shape[1], 2 * latents.shape[2], 2 * latents.shape[3])
        x = source.normal(size).to(latents.device) * sigmas[0]

        def fresh(s: Tensor, t: Tensor) -> Tensor:
            return source.normal(size).to(latents.device)

        sampling = samplers.sampling(resolved(own.sampler), x, sigmas, fresh, own.eta, self.table)
        return (yield from samplers.walk(sampling, lambda query: self.answer(query, guidance)))


def doubling(request: ImageRequest, card: LatentCard, height: int, width: int) -> ImageRequest:
    """What a resolved request asks of a latent upscaler, for latents of this size afterwards; resolved."""
    factor = card.vae.factor
    said = request.model_dump(include={"prompt", "negative_prompt", "prompt_syntax", "seed", "num_images", "tiling"})
    return ImageRequest.model_validate(said | {"width": width * factor, "height": height * factor}).resolve(
        card.defaults
    )


def check_doubler(base: LatentCard, doubler: LatentCard) -> None:
    """`ValueError` for an upscaler of other latents."""
    mine, other = ((vae.latent_channels, vae.latent_scale, vae.factor) for vae in (base.vae, doubler.vae))
    if mine != other:
        raise ValueError(
            f"{doubler.name} cannot enlarge what {base.name} paints: their latents are not the same "
            f"({other[0]} channels times {other[1]:g} and a side of 1/{other[2]}, and {mine[0]} times {mine[1]:g} and "
            f"1/{mine[2]})"
        )
