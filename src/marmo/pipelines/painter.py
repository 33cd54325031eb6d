"""The networks of one model, loaded once, and all that a sampler or a picture can ask of them.

Shapes: B pictures, C latent channels, H W height and width of the latents.
"""

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from marmo.diffusion.denoiser import Parametrisation, denoise
from marmo.diffusion.guidance import Guidance
from marmo.diffusion.noise import NoiseTable
from marmo.diffusion.samplers import Prediction, Query
from marmo.models.clip_text import ClipText
from marmo.models.vae import VAE, Moments
from marmo.nn.blueprint import blueprint
from marmo.nn.engine import Wrap, wrapped
from marmo.pipelines import first_stage
from marmo.pipelines.card import LatentCard, TowerCard
from marmo.pipelines.conditioning import Clock, Conditioning, Text
from marmo.pipelines.conditions import Condition, Conditions, blind, stack
from marmo.pipelines.denoisers import denoiser
from marmo.pipelines.regions import Shares, shares
from marmo.pipelines.residence import Part, Residence
from marmo.pipelines.text_encoders import Encoded, TextEncoders, Tower
from marmo.request import ImageRequest
from marmo.text.emphasis import Emphasis
from marmo.text.prompt import Chunk
from marmo.weights.kinds import Slot

PartName = Literal["text", "unet", "vae"]
T = TypeVar("T")
Remember = Callable[[Hashable, Callable[[], Encoded]], Encoded]
"""(what is read, how) -> the same as was read before, or read now; for those who keep texts between requests."""


class NoNumbers(ValueError):
    """A network's values are no numbers: its weights are damaged, or they are too large for its dtype."""


class Question(NamedTuple):
    """Noisy latents B C H W at one sigma (no axes), to be seen under one condition."""

    x: Tensor
    sigma: Tensor
    condition: Condition

    def alone(self) -> "list[Question]":
        """The same for every picture alone."""
        pictures = enumerate(torch.split(self.x, 1))
        return [self._replace(x=x, condition=self.condition.of_picture(index)) for index, x in pictures]


@dataclass(eq=False)
class Ask:
    """What a walk must know of the U-Net before it can go on.

    Whoever drives the walk fills `x0s`, by `answer` or, with other walks' questions beside these, by `Painter.ask`.
    """

    painter: "Painter"
    questions: Sequence[Question]
    x0s: Sequence[Tensor] = ()
    """One for every question, B C H W each."""

    def answer(self) -> None:
        self.x0s = self.painter.ask(self.questions)

    def answer_by_rows(self) -> None:
        """The same with the least memory: every question for every picture in a call of its own."""
        self.x0s = [
            torch.cat([x0 for alone in question.alone() for x0 in self.painter.ask([alone])])
            for question in self.questions
        ]


@dataclass(eq=False)
class Decode:
    """Scaled latents 1 C H W that a walk must see as pixels before it can end."""

    painter: "Painter"
    latents: Tensor
    wrap: Wrap = first_stage.FLAT
    """Along which axes the picture's edges meet."""
    pixels: Tensor | None = None
    """1 3 FH FW in [-1, 1]."""
    widened: bool = False
    """Whether half precision was too narrow for them."""
    small: bool = False
    """Whether they were decoded in small tiles."""

    def answer(self) -> None:
        self.pixels, self.widened = self.painter.decode(self.latents, self.wrap)

    def answer_in_tiles(self) -> None:
        """The same with the least memory."""
        self.small = True
        self.pixels, self.widened = self.painter.decode(self.latents, self.wrap, small=True)


class Painter:
    """Text encoders, a U-Net and an autoencoder that belong together.

    Args:
        card: the model; its weights are not read before `load`.
        residence: where its parts are while they are not needed; by default on the device.
    """

    def __init__(
        self, card: LatentCard, device: torch.device, dtype: torch.dtype, residence: Residence | None = None
    ) -> None:
        self.card, self.device, self.dtype = card, device, dtype
        self.residence = Residence(device, dtype) if residence is None else residence
        self.tokenizer = card.tokenizer
        self.table = NoiseTable(card.betas)
        self.parametrisation = Parametrisation(card.target, self.table, card.sigma_data)
        with blueprint():
            towers = tuple(_tower(tower) for tower in card.towers)
            self.encoders = TextEncoders(towers, self.tokenizer.start, self.tokenizer.end)
            self.unet, self.vae = denoiser(card.unet), VAE(card.vae)
        texts = self._text_networks()
        self._parts: Mapping[PartName, Part] = {
            "text": Part(tuple(texts.values()), tuple(card.weights[slot] for slot in texts)),
            "unet": Part((self.unet,), (card.weights["unet"],)),
            "vae": Part((self.vae,), (card.weights["vae"],)),
        }
        self.loaded = False
        self.remember: Remember = _forget

    def load(self) -> None:
        """Read the weights, if they are not read yet, as far as they are kept in memory."""
        if self.loaded:
            return
        for part in self._parts.values():
            self.residence.settle(part)
        self.loaded = True

    def bring(self, part: PartName) -> None:
        """Have a part's weights on the device, before its networks are asked anything.  The others may leave."""
        self.residence.bring(self._parts[part])

    @property
    def networks(self) -> dict[Slot, nn.Module]:
        """The networks by the names of their weights in the card."""
        return {**self._text_networks(), "unet": self.unet, "vae": self.vae}

    def ask(self, questions: Sequence[Question]) -> list[Tensor]:
        """x0 for every question, B C H W each, float32.  Questions of many pictures and steps may stand together."""
        x = torch.cat([question.x for question in questions])
        sigma = torch.cat([question.sigma.expand(len(question.x)) for question in questions])
        conditions = [
            question.condition.of_picture(index) for question in questions for index in range(len(question.x))
        ]
        most = max(1, self.residence.thrift.latents_per_call // (x.shape[2] * x.shape[3]))
        x0 = [self._denoise(x[rows], sigma[rows], conditions[rows]) for rows in _calls(conditions, most)]
        return list(torch.split(torch.cat(x0), [len(question.x) for question in questions]))

    def _denoise(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> Tensor:
        self.bring("unet")
        context, vector, beside, wrap = stack(conditions)

        def network(x: Tensor, t: Tensor) -> Tensor:
            seen = x if beside is None else torch.cat([x, beside], dim=1)
            output = self.unet(seen.to(self.dtype), t, context, vector)
            return output[:, : x.shape[1]]  # a latent upscaler also tells a variance, which nobody asks for

        with wrapped(self.unet, wrap):
            return denoise(network, self.parametrisation, x, sigma)

    def shares(self, request: ImageRequest) -> Shares | None:
        """What each prompt of a resolved request decides at every place of the latents; None where one decides all."""
        factor = self.card.vae.factor
        size = resolved(request.height) // factor, resolved(request.width) // factor
        return shares(request.regions, *size, self.device) if request.regions else None

    def guidance(
        self, request: ImageRequest, sigmas: Tensor, beside: Tensor | None = None, past: int = 0
    ) -> tuple[Guidance[Condition], tuple[str, ...]]:
        """The prompts' pull, as the request wants it, and what the user should know of them.

        Args:
            beside: what the network sees beside the latents.  B or 1, Z H W
            past: steps that an earlier pass has walked, where the plans of the prompts go on.
        """
        conditions = Conditions(self.unet, self.card.told, request, beside)
        return Conditioning(
            request,
            Clock.of(request, sigmas, past),
            self.tokenizer,
            self.encoders.context_length,
            lambda chunks, emphasis: self._encode(chunks, resolved(request.clip_skip), emphasis),
            lambda text: self._condition(conditions, text),
            blind,
            self.shares(request),
        ).guidance(self.parametrisation)

    def _condition(self, conditions: Conditions, text: Text) -> Condition:
        self.bring("unet")
        return conditions.of(text.encoded, text.is_negative, text.is_empty)

    def _encode(self, chunks: Sequence[Chunk], skip: int, emphasis: Emphasis) -> Encoded:
        def read() -> Encoded:
            self.bring("text")
            return self.encoders.encode(chunks, skip, emphasis)

        encoded = self.remember((tuple(chunks), skip, emphasis), read)
        self.finite(encoded.states, *self._text_networks())
        return encoded

    def moments(self, pixels: Tensor, wrap: Wrap = first_stage.FLAT) -> Moments:
        """Pixels -> their scaled latents; in float32 where half precision is too narrow for them."""
        self.bring("vae")
        small = self.residence.thrift.small_tiles
        moments = first_stage.encode(self.vae, pixels, wrap, small)
        if self.dtype != torch.float32 and not bool(torch.isfinite(moments.mean).all()):
            with first_stage.widened(self.vae):
                moments = first_stage.encode(self.vae, pixels, wrap, small)
        return Moments(self.finite(moments.mean, "vae"), self.finite(moments.logvar, "vae"))

    def answer(self, query: Query, guidance: Guidance[Condition]) -> Generator[Ask, None, Prediction]:
        """What the network sees under a guidance."""
        rows = guidance.rows(query.index, float(query.sigma))
        ask = Ask(self, [Question(query.x, query.sigma, row) for row in rows])
        yield ask
        prediction = guidance.combine(query, ask.x0s)
        self.finite(prediction.x0, "unet")
        return prediction

    def decode(self, latents: Tensor, wrap: Wrap = first_stage.FLAT, small: bool = False) -> tuple[Tensor, bool]:
        """Scaled latents -> pixels, in small tiles if need be, and whether half precision was too narrow for them."""
        self.bring("vae")
        small = small or self.residence.thrift.small_tiles
        pixels = first_stage.decode(self.vae, latents, wrap, small)
        if self.dtype == torch.float32 or bool(torch.isfinite(pixels).all()):
            return self.finite(pixels, "vae"), False
        with first_stage.widened(self.vae):
            return self.finite(first_stage.decode(self.vae, latents, wrap, small), "vae"), True

    def _text_networks(self) -> dict[Slot, nn.Module]:
        towers = zip(self.card.towers, self.encoders.towers, strict=True)
        return {card.slot: tower.network for card, tower in towers}

    def finite(self, values: Tensor, *networks: Slot) -> Tensor:
        """The values themselves, which these networks made, or `NoNumbers`, which says why they are not numbers."""
        if bool(torch.isfinite(values).all()):
            return values
        for network in networks:
            for name, weight in self.networks[network].named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    raise NoNumbers(
                        f"{self.card.name} is damaged: {network} weight {name} holds values that are no numbers"
                    )
        if self.dtype == torch.float32:
            raise NoNumbers(f"{self.card.name} is damaged: its {networks[0]} overflows even in float32")
        name = str(self.dtype).removeprefix("torch.")
        raise NoNumbers(f"the {networks[0]} overflowed in {name}; load the model with dtype float32")


def answer_together(asks: Sequence[Ask]) -> None:
    """Answer what several walks ask of one painter, for latents of one size, in as few calls as that takes."""
    painter = asks[0].painter
    assert all(ask.painter is painter for ask in asks), "one network answers"
    questions = [question for ask in asks for question in ask.questions]
    forms = list(dict.fromkeys(question.condition.form for question in questions))
    order = sorted(range(len(questions)), key=lambda index: forms.index(questions[index].condition.form))
    answers = dict(zip(order, painter.ask([questions[index] for index in order]), strict=True))
    x0s = iter(answers[index] for index in range(len(questions)))
    for ask in asks:
        ask.x0s = [next(x0s) for _ in ask.questions]


def resolved(value: T | None) -> T:
    """A field of a request after `resolve`, where this model's fields are never None."""
    assert value is not None, "the request is not resolved"
    return value


def _forget(key: Hashable, read: Callable[[], Encoded]) -> Encoded:
    return read()


def _tower(card: TowerCard) -> Tower:
    return Tower(ClipText(card.config), card.pad, card.final_norm, card.pools)


def _calls(conditions: Sequence[Condition], most: int) -> Iterator[slice]:
    """The rows in slices of at most `most`, each of conditions of one form, which alone can be stacked."""
    first = 0
    for _, rows in groupby(condition.form for condition in conditions):
        end = first + len(list(rows))
        yield from (slice(start, min(start + most, end)) for start in range(first, end, most))
        first = end
