"""Two models on one way: the first paints down to some noise, its refiner the rest.

Podell et al. 2023, section 2.5; Balaji et al. 2022 (https://arxiv.org/abs/2211.01324) call such models experts.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from marmo.diffusion.guidance import Guidance
from marmo.diffusion.noise import NoiseTable
from marmo.diffusion.samplers import Prediction, Query
from marmo.files.names import model_name
from marmo.pipelines.card import LatentCard, ModelCard, ToldKind
from marmo.pipelines.conditions import Condition
from marmo.pipelines.painter import Ask, Painter
from marmo.request import ImageRequest, Told

_COMING = ("original_width", "original_height", "crop_left", "crop_top")
HEARD: Mapping[ToldKind, tuple[str, ...]] = {
    "nothing": (),
    "size": (*_COMING, "target_width", "target_height"),
    "score": (*_COMING, "score", "negative_score"),
    "noise": ("noise_level",),
    "text": (),
}
"""The fields of `ImageRequest.told` that each kind of U-Net hears."""


@dataclass(frozen=True)
class Expert:
    """Who paints from a noise level on, down to the next expert's, and under which guidance."""

    sigma: float
    painter: Painter
    guidance: Guidance[Condition]

    def answer(self, query: Query) -> Generator[Ask, None, Prediction]:
        """What this expert sees at a step."""
        return self.painter.answer(query, self.guidance)


def chosen(experts: Sequence[Expert], sigma: Tensor) -> Expert:
    """The last expert whose part of the way has begun; they stand in the order of the way."""
    begun = [expert for expert in experts if float(sigma) < expert.sigma]
    return begun[-1]


def check_model(request: ImageRequest, card: LatentCard, refiner: LatentCard | None) -> None:
    """`ValueError` for a request that asks for other models than these, or for them read in another way."""
    check_name(request, card)
    if request.prediction not in (None, card.target):
        raise ValueError(
            f"the request says that {card.name} predicts {request.prediction}, and it was loaded as predicting "
            f"{card.target}; load it with prediction {request.prediction}"
        )
    if request.zero_snr not in (None, card.betas.zero_snr):
        raise ValueError(
            f"the request has zero_snr {request.zero_snr}, and {card.name} was loaded with {card.betas.zero_snr}; "
            f"load it with zero_snr {request.zero_snr}"
        )
    vae = model_name(card.vae_path)
    if request.vae is not None and model_name(request.vae) != vae:
        raise ValueError(
            f"the request is for the autoencoder {request.vae}, and {card.name} was loaded with {vae or 'its own'}; "
            f"load it with vae {request.vae}"
        )
    wanted = request.refiner.model
    if wanted is not None and (refiner is None or model_name(wanted) != refiner.name):
        there = "none is loaded" if refiner is None else f"{refiner.name} is loaded"
        raise ValueError(f"the request is for the refiner {wanted}, and {there}; load the model with refiner {wanted}")


def check_name(request: ImageRequest, card: ModelCard) -> None:
    """`ValueError` for a request that asks for another model than this."""
    if request.model is not None and model_name(request.model) != card.name:
        raise ValueError(f"the request is for the model {request.model}, and this is {card.name}")


def check_told(request: ImageRequest, cards: Sequence[LatentCard]) -> None:
    """`ValueError` for what none of the models that paint the request is told."""
    heard = {field for card in cards for field in HEARD[card.told]}
    for name, value in request.told:
        if name not in heard and value != Told.model_fields[name].default:
            raise ValueError(f"told.{name} means nothing to {' and '.join(card.name for card in cards)}; leave it out")


def hand_over(table: NoiseTable, switch: float) -> float:
    """The noise level below which the refiner paints.

    As in diffusers and A1111, the share is one of the training's clock; over a schedule of even times it is also that
    of the steps.
    """
    levels = len(table.sigmas)
    first = round(levels - levels * switch)
    return float(table.sigmas[first].float())  # as the samplers' sigmas are, so that the level itself is the first's


def check_refiner(base: LatentCard, refiner: LatentCard) -> None:
    """`ValueError` for two models that do not share their latents."""
    mine, other = base.vae, refiner.vae
    if (mine.latent_channels, mine.latent_scale) != (other.latent_channels, other.latent_scale):
        raise ValueError(
            f"{refiner.name} cannot refine {base.name}: their latents are not the same "
            f"({other.latent_channels} channels times {other.latent_scale:g}, and {mine.latent_channels} times "
            f"{mine.latent_scale:g})"
        )
    if refiner.task != "paint":
        raise ValueError(f"{refiner.name} cannot refine {base.name}: it was trained to {refiner.task}")
    if base.betas != refiner.betas:
        raise ValueError(f"{refiner.name} cannot refine {base.name}: they were trained over different noise levels")


def refining(request: ImageRequest, refiner: LatentCard) -> ImageRequest:
    """What the refiner is asked for: the same picture in its own terms."""
    names = ("model", "vae", "clip_skip", "prediction", "zero_snr", "empty_negative", "image_guidance_scale")
    return request.model_copy(update=dict.fromkeys(names)).resolve(refiner.defaults)
