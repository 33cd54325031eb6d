"""Latent diffusion, in one sentence: text to states, noise to latents under their guidance, latents to pixels.

Rombach et al. 2022.  Shapes: B pictures, C latent channels, H W height and width of the latents, T tokens.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from marmo.diffusion import noise, samplers, schedules, sources
from marmo.diffusion.denoiser import Parametrisation, denoise
from marmo.diffusion.guidance import Guidance
from marmo.files.pictures import decode_image
from marmo.models.clip_text import ClipText
from marmo.models.tiny_decoder import TinyDecoder
from marmo.models.unet import UNet
from marmo.models.vae import VAE, Moments
from marmo.nn.blueprint import blueprint
from marmo.pipelines import first_stage
from marmo.pipelines.card import LatentCard, TowerCard
from marmo.pipelines.conditioning import Clock, Conditioning
from marmo.pipelines.conditions import Condition, Conditions, stack
from marmo.pipelines.events import Event, Result, Stage, Step
from marmo.pipelines.experts import Expert, check_model, check_refiner, chosen, hand_over, refining
from marmo.pipelines.pixels import to_pictures, to_tensor
from marmo.pipelines.preview import linear_preview, tiny_preview
from marmo.pipelines.provenance import records, weight_hashes
from marmo.pipelines.text_encoders import Encoded, TextEncoders, Tower
from marmo.request import ImageRequest
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.text.emphasis import Emphasis
from marmo.text.prompt import Chunk
from marmo.weights.keymap import fill
from marmo.weights.kinds import Slot

LATENTS_PER_CALL = 16 * 64 * 64
"""More rows than this many latents are asked in several calls, so that a large batch does not need a large memory."""

T = TypeVar("T")


class Question(NamedTuple):
    """Noisy latents B C H W at one sigma (no axes), to be seen under one condition."""

    x: Tensor
    sigma: Tensor
    condition: Condition


class LatentDiffusion:
    """A text encoder, a U-Net and an autoencoder that paint together.

    Args:
        card: the model; its weights are not read before `load` or the first picture.
        preview: a tiny decoder, already loaded, for `Step.preview`; without one the preview has a pixel per latent.
        refiner: a second model, which paints the end of the requests that name it.
    """

    def __init__(
        self,
        card: LatentCard,
        device: torch.device,
        dtype: torch.dtype,
        preview: TinyDecoder | None = None,
        refiner: "LatentDiffusion | None" = None,
    ) -> None:
        self.card, self.device, self.dtype, self.refiner = card, device, dtype, refiner
        if refiner is not None:
            check_refiner(card, refiner.card)
        self.tokenizer = ClipTokenizer.from_folder(card.tokenizer) if card.tokenizer else clip_tokenizer()
        self.parametrisation = Parametrisation(card.target, noise.NoiseTable(card.betas))
        with blueprint():
            self.encoders = TextEncoders(tuple(_tower(tower) for tower in card.towers))
            self.unet, self.vae = UNet(card.unet), VAE(card.vae)
        self.preview = linear_preview(self.vae) if preview is None else tiny_preview(preview)
        self.loaded = False

    def load(self) -> None:
        """Read the weights, if they are not read yet."""
        if self.loaded:
            return
        for slot, network in self.networks.items():
            fill(network, self.card.weights[slot], self.dtype, self.device)
        if self.refiner is not None:
            self.refiner.load()
        self.loaded = True

    @property
    def networks(self) -> dict[Slot, nn.Module]:
        """The networks by the names of their weights in the card."""
        return {**self._text_networks(), "unet": self.unet, "vae": self.vae}

    def generate(self, request: ImageRequest) -> Result:
        """Paint a request to its end."""
        for event in self.stream(request):
            if isinstance(event, Result):
                return event
        raise AssertionError("a stream ends with its result")

    def stream(self, request: ImageRequest) -> Iterator[Event]:
        """Paint a request, telling what happens.  Stop asking for events and the painting stops.

        Raises `ValueError` for a request that this model cannot paint, and for weights that give no numbers.
        """
        request = self.resolve(request)
        sigmas = self.sigmas(request)
        picture = _init_image(request)
        source = _source(request)
        if not self.loaded:
            yield Stage("loading")
            self.load()
        yield Stage("encoding")
        experts, notes = self._experts(request, sigmas)
        x = self._start(request, sigmas, source, picture)
        sampling = samplers.sampling(
            resolved(request.sampler),
            x,
            sigmas,
            self._noise(request, source, x),
            request.eta,
            self.parametrisation.table,
        )
        latents = yield from self._walk(sampling, experts, len(sigmas) - 1)
        yield Stage("decoding")
        decoded = [self._decode(row) for row in torch.split(latents, 1)]
        pictures = tuple(picture for pixels, _ in decoded for picture in to_pictures(pixels))
        notes += (first_stage.WIDENED,) * any(widened for _, widened in decoded)
        yield Result(pictures, records(request, self._cards(request), sigmas, self.device, self.dtype), notes)

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with nothing left open; see `ImageRequest.resolve`.  Another model's request is refused."""
        check_model(request, self.card, None if self.refiner is None else self.refiner.card)
        return self._sized(request).resolve(self.card.defaults)

    def sigmas(self, request: ImageRequest) -> Tensor:
        """The noise levels that a resolved request walks down.  S + 1, the last one 0."""
        sigmas = self._schedule(request)
        if request.init_image is None:
            return sigmas
        return schedules.last_part(sigmas, resolved(request.strength), request.start)

    def _schedule(self, request: ImageRequest) -> Tensor:
        """The noise levels from pure noise, also where the run starts later."""
        table = self.parametrisation.table
        assert table is not None
        return schedules.schedule(
            resolved(request.schedule), table, resolved(request.steps), request.discard_penultimate
        )

    def ask(self, questions: Sequence[Question]) -> list[Tensor]:
        """x0 for every question, B C H W each, float32.  Questions of many pictures and steps may stand together."""
        x = torch.cat([question.x for question in questions])
        sigma = torch.cat([question.sigma.expand(len(question.x)) for question in questions])
        conditions = [question.condition for question in questions for _ in question.x]
        most = max(1, LATENTS_PER_CALL // (x.shape[2] * x.shape[3]))
        x0 = [self._denoise(x[rows], sigma[rows], conditions[rows]) for rows in _calls(conditions, most)]
        return list(torch.split(torch.cat(x0), [len(question.x) for question in questions]))

    def _denoise(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> Tensor:
        context, vector = stack(conditions)
        return denoise(lambda x, t: self.unet(x.to(self.dtype), t, context, vector), self.parametrisation, x, sigma)

    def _sized(self, request: ImageRequest) -> ImageRequest:
        """A request that starts from a picture and names no size has the picture's, cut to what the model can paint."""
        picture = _init_image(request)
        if picture is None or request.width is not None or request.height is not None:
            return request
        factor = self.card.vae.factor
        width, height = (max(side // factor, 1) * factor for side in picture.size)
        return ImageRequest.model_validate(request.model_copy(update={"width": width, "height": height}).model_dump())

    def _experts(self, request: ImageRequest, sigmas: Tensor) -> tuple[tuple[Expert, ...], tuple[str, ...]]:
        """Who paints which part of the way, and what the user should know of the prompts."""
        guidance, notes = self._guidance(request, sigmas)
        first = Expert(math.inf, self, guidance)
        if self.refiner is None or request.refiner.model is None:
            return (first,), notes
        table, refiner = self.parametrisation.table, self.refiner
        assert table is not None
        guidance, _ = refiner._guidance(refining(request, refiner.card), sigmas)
        return (first, Expert(hand_over(table, request.refiner.switch), refiner, guidance)), notes

    def hashes(self) -> dict[str, str]:
        """The sha256 of every weight file, by its name in a record."""
        cards = [self.card] if self.refiner is None else [self.card, self.refiner.card]
        return weight_hashes(cards)

    def _cards(self, request: ImageRequest) -> tuple[LatentCard, ...]:
        """Of all models that paint the request."""
        second = () if self.refiner is None or request.refiner.model is None else (self.refiner.card,)
        return self.card, *second

    def _guidance(self, request: ImageRequest, sigmas: Tensor) -> tuple[Guidance[Condition], tuple[str, ...]]:
        """The prompts' pull, as the request wants it, and what the user should know of them."""
        conditions = Conditions(self.unet, self.card.told, request)
        return Conditioning(
            request,
            Clock.of(request, sigmas),
            self.tokenizer,
            self.encoders.context_length,
            lambda chunks, emphasis: self._encode(chunks, resolved(request.clip_skip), emphasis),
            lambda text: conditions.of(text.encoded, text.is_negative, text.is_empty),
        ).guidance(self.parametrisation)

    def _encode(self, chunks: Sequence[Chunk], skip: int, emphasis: Emphasis) -> Encoded:
        encoded = self.encoders.encode(chunks, skip, emphasis)
        self._finite(encoded.states, *self._text_networks())
        return encoded

    def _start(
        self, request: ImageRequest, sigmas: Tensor, source: sources.NoiseSource, picture: Image.Image | None
    ) -> Tensor:
        """The noisy latents where the walk begins.  B C H W, float32."""
        width, height, sigma = resolved(request.width), resolved(request.height), sigmas[0]
        factor = self.card.vae.factor
        shape = (self.card.vae.latent_channels, height // factor, width // factor)
        if picture is None:
            amplitude = (1 + sigma**2).sqrt() if request.start == "diffusers" else sigma
            return source.start(shape).to(self.device) * amplitude
        pixels = to_tensor(picture, width, height).to(self.device)
        x0 = self._moments(pixels).sample(source.normal(shape).to(self.device))
        return x0 + source.start(shape).to(self.device) * sigma

    def _moments(self, pixels: Tensor) -> Moments:
        moments = first_stage.encode(self.vae, pixels)
        if self.dtype != torch.float32 and not bool(torch.isfinite(moments.mean).all()):
            with first_stage.widened(self.vae):
                moments = first_stage.encode(self.vae, pixels)
        return Moments(self._finite(moments.mean, "vae"), self._finite(moments.logvar, "vae"))

    def _noise(self, request: ImageRequest, source: sources.NoiseSource, x: Tensor) -> samplers.Noise:
        """The steps' noise: increments of a path for the samplers that need one, else fresh."""
        if request.sampler not in samplers.BROWNIAN:
            return lambda s, t: source.normal(x.shape[1:]).to(x.device)
        path = source.path(x.shape[1:], self._schedule(request))
        return lambda s, t: path(s, t).to(x.device)

    def _walk(
        self, sampling: samplers.Sampling, experts: Sequence[Expert], total: int
    ) -> Generator[Step, None, Tensor]:
        """Drive the sampler, showing every answer."""
        driven = samplers.drive(sampling, lambda query: chosen(experts, query.sigma).answer(query))
        while True:
            try:
                query, prediction = next(driven)
            except StopIteration as end:
                return end.value
            yield Step(query.index, total, float(query.sigma), prediction.x0, self.preview)

    def answer(self, query: samplers.Query, guidance: Guidance[Condition]) -> samplers.Prediction:
        """What the network sees under a guidance."""
        rows = guidance.rows(query.index, float(query.sigma))
        x0s = self.ask([Question(query.x, query.sigma, row) for row in rows])
        prediction = guidance.combine(query, x0s)
        self._finite(prediction.x0, "unet")
        return prediction

    def _decode(self, latents: Tensor) -> tuple[Tensor, bool]:
        """Pixels, and whether half precision was too narrow for them."""
        pixels = first_stage.decode(self.vae, latents)
        if self.dtype == torch.float32 or bool(torch.isfinite(pixels).all()):
            return self._finite(pixels, "vae"), False
        with first_stage.widened(self.vae):
            return self._finite(first_stage.decode(self.vae, latents), "vae"), True

    def _text_networks(self) -> dict[Slot, nn.Module]:
        towers = zip(self.card.towers, self.encoders.towers, strict=True)
        return {card.slot: tower.network for card, tower in towers}

    def _finite(self, values: Tensor, *networks: Slot) -> Tensor:
        """The values themselves, which these networks made, or `ValueError` that says why they are not numbers."""
        if bool(torch.isfinite(values).all()):
            return values
        for network in networks:
            for name, weight in self.networks[network].named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    raise ValueError(
                        f"{self.card.name} is damaged: {network} weight {name} holds values that are no numbers"
                    )
        if self.dtype == torch.float32:
            raise ValueError(f"{self.card.name} is damaged: its {networks[0]} overflows even in float32")
        name = str(self.dtype).removeprefix("torch.")
        raise ValueError(f"the {networks[0]} overflowed in {name}; load the model with dtype float32")


def resolved(value: T | None) -> T:
    """A field of a request after `resolve`, where this model's fields are never None."""
    assert value is not None, "the request is not resolved"
    return value


def _source(request: ImageRequest) -> sources.NoiseSource:
    """The request's random numbers."""
    make, pictures = sources.NOISE_SOURCES[request.noise_source], range(request.num_images)
    source = make([request.picture_seed(image) for image in pictures])
    variation = request.variation
    if not variation.strength:
        return source
    other = make([resolved(variation.seed) + image for image in pictures])
    return sources.Varied(source, other, variation.strength)


def _init_image(request: ImageRequest) -> Image.Image | None:
    if request.init_image is None:
        return None
    try:
        return decode_image(request.init_image)
    except ValueError as error:
        raise ValueError(f"init_image: {error}") from None


def _tower(card: TowerCard) -> Tower:
    return Tower(ClipText(card.config), card.pad, card.final_norm)


def _calls(conditions: Sequence[Condition], most: int) -> Iterator[slice]:
    """The rows in slices of at most `most`, each of prompts of one length, which alone can be stacked."""
    first = 0
    for _, rows in groupby(condition.length for condition in conditions):
        end = first + len(list(rows))
        yield from (slice(start, min(start + most, end)) for start in range(first, end, most))
        first = end
