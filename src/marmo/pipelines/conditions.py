"""What a row of the U-Net is told: a prompt as keys and values and, with SDXL, sizes and a score as one vector.

Podell et al. 2023, section 2.2.  Models for editing see a mask or a picture beside the latents.

Shapes: B rows or pictures, Z channels beside the latents, H W their height and width, S context tokens, P width of the
pooled prompt, V width of the vector, N numbers in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from marmo.models.unet import CODE_WIDTH, Context
from marmo.nn.attention import KeysValues
from marmo.nn.embed import sinusoidal
from marmo.nn.engine import Wrap
from marmo.pipelines.card import ToldKind
from marmo.pipelines.denoisers import Denoiser
from marmo.pipelines.text_encoders import Encoded
from marmo.pipelines.tiling import wrap_of
from marmo.request import ImageRequest

SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Of `sd_xl_refiner`'s own program (Stability-AI/generative-models)."""
NOISE_WIDTH = 128
"""Of the Fourier features by which a latent upscaler hears how noisy the small picture is."""


class Condition(NamedTuple):
    """One row's prompt, as the keys and values that the cross-attentions made of it once, vector 1 V, and its edges."""

    context: Context
    vector: Tensor | None = None
    beside: Tensor | None = None
    """What the network sees beside the latents: B Z H W, or 1 Z H W for all pictures"""
    wrap: Wrap = Wrap()
    """Along which axes it sees opposite edges as neighbours"""

    def of_picture(self, index: int) -> "Condition":
        """One picture's."""
        if self.beside is None or len(self.beside) == 1:
            return self
        return self._replace(beside=self.beside[index : index + 1])

    @property
    def length(self) -> int:
        """Of the prompt in tokens."""
        return self.context[0].keys.shape[2]

    @property
    def form(self) -> tuple[int, Wrap]:
        """What rows must have in common to be asked in one call."""
        return self.length, self.wrap


@dataclass(frozen=True)
class Conditions:
    """Makes the conditions of one resolved request from its prompts."""

    unet: Denoiser
    told: ToldKind
    request: ImageRequest
    beside: Tensor | None = None

    def of(self, encoded: Encoded, negative: bool = False, empty: bool = False) -> Condition:
        """A prompt's condition.

        Args:
            negative: it is what the picture shall keep away from.
            empty: it has no words.  A negative prompt without words is zeros where the request says so.
        """
        states, pooled = encoded
        if negative and empty and self.request.empty_negative == "zeros":
            states, pooled = torch.zeros_like(states), None if pooled is None else torch.zeros_like(pooled)
        vector, wrap = self._vector(pooled, negative), wrap_of(self.request)
        return Condition(self.unet.project(states), vector, self.beside, wrap)

    def _vector(self, pooled: Tensor | None, negative: bool) -> Tensor | None:
        """1 V: the pooled prompt, then every number's sinusoids; for the x4 upscaler the level of noise alone.

        The latent x2 upscaler is told the Fourier features of no noise, cosines and sines of 0, and the pooled prompt:
        the frequencies of its training are in no published file, and at 0 they do not matter.
        """
        if self.told == "text":
            assert pooled is not None, "a latent upscaler's text encoder pools"
            clean = torch.cat([pooled.new_ones(1, NOISE_WIDTH // 2), pooled.new_zeros(1, NOISE_WIDTH // 2)], dim=1)
            return torch.cat([clean, pooled], dim=1)
        if self.told == "noise":
            return torch.tensor([[float(self.request.told.noise_level)]], device=self.unet.conv_in.weight.device)
        numbers = told_numbers(self.told, self.request, negative)
        if not numbers:
            return None
        assert pooled is not None, "no text encoder of this model has a projection"
        codes = sinusoidal(torch.tensor(numbers, device=pooled.device), CODE_WIDTH)  # N width
        return torch.cat([pooled, codes.flatten()[None].to(pooled)], dim=1)  # 1 V


def blind(condition: Condition) -> Condition:
    """The condition of a row that does not see the picture, as Brooks et al. 2023 trained it: zeros."""
    assert condition.beside is not None, "this model sees no picture"
    return condition._replace(beside=torch.zeros_like(condition.beside))


def told_numbers(told: ToldKind, request: ImageRequest, negative: bool) -> tuple[float, ...]:
    """The numbers beside the pooled prompt, in the order of the model's training."""
    width, height = request.width, request.height
    assert width is not None and height is not None, "the request is not resolved"
    wish = request.told
    original = wish.original_height or height, wish.original_width or width
    crop = wish.crop_top, wish.crop_left
    match told:
        case "nothing" | "noise" | "text":
            return ()
        case "size":
            return (*original, *crop, wish.target_height or height, wish.target_width or width)
        case "score":
            score = wish.negative_score if negative else wish.score
            return (*original, *crop, (NEGATIVE_SCORE if negative else SCORE) if score is None else score)


def stack(conditions: Sequence[Condition]) -> Condition:
    """One condition per row, all of one form -> one of the whole batch."""
    layers = zip(*(condition.context for condition in conditions), strict=True)
    context = [KeysValues(*(torch.cat(part) for part in zip(*layer, strict=True))) for layer in layers]
    vectors = [condition.vector for condition in conditions if condition.vector is not None]
    besides = [condition.beside for condition in conditions if condition.beside is not None]
    return Condition(
        context,
        torch.cat(vectors) if vectors else None,
        torch.cat(besides) if besides else None,
        conditions[0].wrap,
    )
