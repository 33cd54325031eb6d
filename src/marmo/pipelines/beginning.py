"""Where a walk begins: noise, a picture under noise, or a picture of which only a part is painted.

Random numbers are drawn in diffusers' order: the picture's latents, the noise, the masked picture's latents.

Shapes: B pictures, C latent channels, Z channels beside them, H W height and width of the latents.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from marmo.diffusion.noise import Betas
from marmo.diffusion.sources import NoiseSource
from marmo.pipelines.canvas import HALF, Canvas, Inputs, inputs
from marmo.pipelines.card import LatentCard
from marmo.pipelines.inpaint import Kept
from marmo.pipelines.painter import Painter, resolved
from marmo.pipelines.pixels import to_tensor
from marmo.pipelines.tiling import wrap_of
from marmo.request import ImageRequest

UPSCALER_LEVELS = Betas(kind="scaled_linear", start=1e-4, end=0.02)
"""Of the noise on the small picture (x4-upscaling.yaml in Stability-AI/stablediffusion)."""


def check_task(request: ImageRequest, card: LatentCard) -> None:
    """`ValueError` for a request without the picture that this model changes."""
    if card.task == "edit" and request.init_image is None:
        raise ValueError(f"{card.name} changes a picture as the prompt tells it to; give it one as init_image")
    if card.task in ("upscale", "upscale_latents"):
        if request.init_image is None:
            raise ValueError(f"{card.name} makes a picture larger; give it one as init_image")
        if request.strength is not None or request.is_partial:
            raise ValueError(f"{card.name} makes a whole picture larger; leave strength, mask and outpaint out")


def doubled(latents: Tensor) -> Tensor:
    """Latents as a latent upscaler sees them beside its own: each as a square of four.  B C H W -> B C 2H 2W."""
    return F.interpolate(latents, scale_factor=2, mode="nearest")


@dataclass(frozen=True)
class Beginning:
    """The start of one walk."""

    x: Tensor
    """Noisy latents at the first sigma.  B C H W, float32"""
    kept: Kept | None = None
    """What of the picture is kept on the way"""
    beside: Tensor | None = None
    """What the network sees beside the latents at every step.  B or 1, Z H W"""


@dataclass(frozen=True)
class Opening:
    """Makes the beginning of one resolved request.

    Args:
        sigmas: the noise levels of the walk.  S + 1
    """

    painter: Painter
    request: ImageRequest
    sigmas: Tensor
    source: NoiseSource
    given: Inputs | None
    canvas: Canvas | None

    @classmethod
    def of(cls, painter: Painter, request: ImageRequest, sigmas: Tensor, source: NoiseSource) -> "Opening":
        """`ValueError` for pictures in the request that cannot be painted on."""
        given = inputs(request)
        canvas = None
        if given is not None and request.is_partial:
            canvas = Canvas.of(request, given, painter.card.vae.factor)
        return cls(painter, request, sigmas, source, given, canvas)

    def begin(self) -> Beginning:
        """Draw the start; the weights must be loaded."""
        if self.painter.card.task == "upscale":  # whose noise diffusers draws first
            small = self._small()
            return Beginning(self._noise(self.source.start(self._shape).to(self.painter.device)), beside=small)
        if self.painter.card.task == "upscale_latents":
            small = self._small_latents()
            return Beginning(self._noise(self.source.start(self._shape).to(self.painter.device)), beside=small)
        keeps = self.canvas is not None and self._must_keep()
        x0 = self._encoded() if self.given is not None and (keeps or not self._is_noise) else None
        noise = self.source.start(self._shape).to(self.painter.device)
        x = self._noise(noise) if x0 is None or self._is_noise else self._under(x0, noise)
        return Beginning(x, self._kept(x0, noise) if keeps and x0 is not None else None, self._beside())

    def finish(self, painted: Image.Image) -> Image.Image:
        """The picture for the user: what is kept to the bit, and what was painted."""
        return painted if self.canvas is None else self.canvas.paste(painted)

    @property
    def _shape(self) -> tuple[int, int, int]:
        width, height = resolved(self.request.width), resolved(self.request.height)
        factor = self.painter.card.vae.factor
        return self.painter.card.vae.latent_channels, height // factor, width // factor

    @property
    def _is_noise(self) -> bool:
        """Whether nothing of a picture is in the start."""
        if self.given is None or self.request.strength is None:
            return True
        whole = self.request.strength == 1 and self.request.start == "diffusers"
        return self.canvas is not None and self.request.inpaint.fill == "noise" and whole

    def _must_keep(self) -> bool:
        """Models for inpainting keep the rest by themselves; A1111 helps them, diffusers does not."""
        is_able = self.painter.card.task == "inpaint"
        return not is_able or self.request.start == "a1111" or self.request.inpaint.soft

    def _noise(self, noise: Tensor) -> Tensor:
        """The start of a picture of which nothing is known."""
        sigma = self.sigmas[0]
        return noise * ((1 + sigma**2).sqrt() if self.request.start == "diffusers" else sigma)

    def _encoded(self) -> Tensor:
        """The picture's latents, drawn from their distribution.  B C H W"""
        moments = self.painter.moments(self._pixels().to(self.painter.device), wrap_of(self.request))
        return moments.sample(self.source.normal(self._shape).to(self.painter.device))

    def _pixels(self) -> Tensor:
        """What of the picture the networks see.  1 3 FH FW"""
        assert self.given is not None
        if self.canvas is not None:
            return self.canvas.seen
        return to_tensor(self.given.picture, resolved(self.request.width), resolved(self.request.height))

    def _under(self, x0: Tensor, noise: Tensor) -> Tensor:
        """The picture under noise; where the hole is filled with latents, these."""
        sigma, fill = self.sigmas[0], self.request.inpaint.fill
        x = x0 + noise * sigma
        if self.canvas is None or fill not in ("noise", "blank"):
            return x
        if fill == "blank":
            filled = noise * sigma
        else:  # A1111 lays the same numbers under the noise as their picture
            filled = self._noise(noise) if self.request.start == "diffusers" else noise * (1 + sigma)
        return torch.where(self._share() >= (1 if self.request.inpaint.soft else HALF), filled, x)

    def _share(self) -> Tensor:
        """How free every latent is.  1 1 H W"""
        assert self.canvas is not None
        _, height, width = self._shape
        return self.canvas.free(width, height).to(self.painter.device)

    def _kept(self, x0: Tensor, noise: Tensor) -> Kept:
        alone = float(self.sigmas[0]) if self._is_noise else float("inf")
        shown = noise if self.request.start == "diffusers" else None
        return Kept(x0, self._share(), self.request.inpaint.soft, len(self.sigmas) - 1, shown, alone)

    def _beside(self) -> Tensor | None:
        """What models for editing are told of the picture."""
        match self.painter.card.task:
            case "paint" | "upscale" | "upscale_latents":
                return None
            case "edit":  # its mode, and not scaled as latents are (Brooks et al. 2023)
                moments = self.painter.moments(self._pixels().to(self.painter.device), wrap_of(self.request))
                return moments.mean / self.painter.card.vae.latent_scale
            case "inpaint":
                return self._masked()

    def _small(self) -> Tensor:
        """The picture to be enlarged, at the size of the latents, as noisy as the network is told.  B 3 H W"""
        assert self.given is not None
        _, height, width = self._shape
        picture = to_tensor(self.given.picture, width, height).to(self.painter.device)
        kept = UPSCALER_LEVELS.alphas()[self.request.told.noise_level].float()
        return kept.sqrt() * picture + (1 - kept).sqrt() * self.source.normal((3, height, width)).to(picture.device)

    def _small_latents(self) -> Tensor:
        """The latents of the picture to be enlarged, each four times.  B C H W"""
        assert self.given is not None
        width, height = resolved(self.request.width) // 2, resolved(self.request.height) // 2
        pixels = to_tensor(self.given.picture, width, height).to(self.painter.device)
        moments = self.painter.moments(pixels, wrap_of(self.request))
        drawn = moments.sample(self.source.normal(tuple(moments.mean.shape[1:])).to(self.painter.device))
        return doubled(drawn)

    def _masked(self) -> Tensor:
        """The mask and, grey under it, the picture's latents.  B 1+C H W; without a mask all is to be painted."""
        _, height, width = self._shape
        factor = self.painter.card.vae.factor
        if self.canvas is None:
            mask, pixels = torch.ones(1, 1, height, width), torch.zeros(1, 3, height * factor, width * factor)
        else:
            mask = (self.canvas.free(width, height) >= HALF).float()
            kept = self.canvas.free(width * factor, height * factor) < HALF
            pixels = self.canvas.seen * kept
        drawn = self.painter.moments(pixels.to(self.painter.device), wrap_of(self.request)).sample(
            self.source.normal(self._shape).to(self.painter.device)
        )
        return torch.cat([mask.to(drawn).expand(len(drawn), -1, -1, -1), drawn], dim=1)
