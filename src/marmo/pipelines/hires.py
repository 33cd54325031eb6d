"""The second pass: what was painted, enlarged and painted again from some noise on, where there is room for details.

A1111's "hires. fix" (`sample_hr_pass` in `modules/processing.py`, version 1.10): the same seeds draw anew at the new
size, and all steps of the pass are walked, over a schedule that is stretched so that they begin at its strength.

Shapes: B pictures, C latent channels, H W height and width of the latents.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marmo.diffusion import sources
from marmo.nn.engine import Wrap
from marmo.pipelines.beginning import Beginning
from marmo.pipelines.card import LatentCard
from marmo.pipelines.doubler import Doubler
from marmo.pipelines.enlarge import RULES, Rule, enlarge_latents, enlarge_pixels
from marmo.pipelines.painter import Ask, Decode, Painter, resolved
from marmo.pipelines.tiling import wrap_of
from marmo.pipelines.upscaler import Enlarge, Upscaler
from marmo.request import Hires, ImageRequest

MOST_STEPS = 1000
"""Of a stretched schedule: the levels of a training."""
SMOOTH = Rule("bilinear", antialias=True)
"""From a latent upscaler's size to the one that is wanted."""


def second_request(request: ImageRequest, multiple: int) -> ImageRequest:
    """What a resolved request asks of its second pass: another size, and what is said otherwise for it."""
    hires = request.hires
    width, height = hires.size(resolved(request.width), resolved(request.height), multiple)
    said = {"width": width, "height": height, "steps": hires.steps, "strength": hires.strength, "hires": Hires()}
    words = {"prompt": hires.prompt, "negative_prompt": hires.negative_prompt}
    return request.model_copy(update=said | {name: text for name, text in words.items() if text is not None})


def stretched(steps: int, strength: float) -> int:
    """How many steps a schedule has whose last `steps` begin at this strength."""
    return max(min(int(steps / min(strength, 0.999)), MOST_STEPS), steps) if strength else steps


@dataclass(frozen=True)
class Pass:
    """One walk from noise to a picture."""

    request: ImageRequest
    """Resolved; the second pass's has its size, prompts, steps and strength."""
    levels: Tensor
    """The schedule from pure noise."""
    sigmas: Tensor
    """Its last part, which is walked."""
    past: int
    """Steps of the pass before."""
    total: int
    """Steps of all passes."""


@dataclass(frozen=True)
class Enlarging:
    """From the first pass's latents to the second's.

    Args:
        upscaler: a network for it, of pixels or of latents, loaded, if the request names one.
    """

    painter: Painter
    walk: Pass
    how: Hires
    upscaler: Upscaler | Doubler | None

    @property
    def is_all(self) -> bool:
        """Whether pixels are enlarged and nothing is painted after that."""
        return len(self.walk.sigmas) == 1 and not self.how.keeps_latents and not isinstance(self._named, Doubler)

    def begin(self, latents: Tensor, source: sources.NoiseSource) -> Generator[Ask | Decode | Enlarge, None, Beginning]:
        """Where the second walk begins, after a first to these latents.  B C H W -> B C of its size, float32."""
        factor = self.painter.card.vae.factor
        shape = latents.shape[1], self._height // factor, self._width // factor
        noise = source.start(shape).to(latents.device) * self.walk.sigmas[0]  # the seeds' first draw, as in A1111
        larger = yield from self._latents(latents, source, shape)
        return Beginning(larger + noise)

    def finish(self, pixels: Tensor, wrap: Wrap) -> Generator[Enlarge, None, Tensor]:
        """Decoded pixels, of the first pass's size where the second paints nothing -> B 3 of the second's."""
        return (yield from self._enlarged(pixels, wrap)) if self.is_all else pixels

    def _latents(
        self, latents: Tensor, source: sources.NoiseSource, shape: tuple[int, int, int]
    ) -> Generator[Ask | Decode | Enlarge, None, Tensor]:
        """Larger latents, through pixels where these are what is enlarged."""
        rule, wrap = RULES.get(resolved(self.how.upscaler)), wrap_of(self.walk.request)
        if rule is not None:
            return enlarge_latents(latents, *shape[1:], rule, wrap)
        if isinstance(self._named, Doubler):
            doubled = yield from self._named.double(latents, self.walk.request, source)
            same = doubled.shape[1:] == shape
            return doubled if same else enlarge_latents(doubled, *shape[1:], SMOOTH, wrap)
        draws = torch.split(source.normal(shape).to(latents.device), 1)
        decoded = [Decode(self.painter, row, wrap) for row in torch.split(latents, 1)]
        yield from decoded
        larger: list[Tensor] = []
        for one, draw in zip(decoded, draws, strict=True):
            picture = yield from self._enlarged(resolved(one.pixels), wrap)
            larger.append(self.painter.moments(picture, wrap).sample(draw))
        return torch.cat(larger)

    def _enlarged(self, pixels: Tensor, wrap: Wrap) -> Generator[Enlarge, None, Tensor]:
        if isinstance(self._named, Upscaler):
            pixels = yield from self._named.works(pixels, wrap, [], self._named.num_pieces(pixels, wrap))
        return enlarge_pixels(pixels, self._height, self._width, wrap)

    @property
    def _named(self) -> Upscaler | Doubler | None:
        """The network, if the request asks for it; another request may not."""
        return None if self.how.model is None else self.upscaler

    @property
    def _height(self) -> int:
        return resolved(self.walk.request.height)

    @property
    def _width(self) -> int:
        return resolved(self.walk.request.width)


def check_hires(request: ImageRequest, card: LatentCard, upscaler: Upscaler | Doubler | None) -> None:
    """`ValueError` for a second pass that this model cannot make, or not with the upscaler that is loaded."""
    if request.hires.acts and (card.task != "paint" or request.is_partial):
        raise ValueError(
            "hires makes a whole picture larger; where a part is painted or a picture is edited, leave it out and "
            "enlarge the result afterwards"
        )
    wanted = request.hires.model
    if wanted is not None and (upscaler is None or Path(wanted).name != upscaler.card.name):
        there = "none is loaded" if upscaler is None else f"{upscaler.card.name} is loaded"
        raise ValueError(
            f"the request is for the upscaler {wanted}, and {there}; load the model with upscaler {wanted}"
        )
