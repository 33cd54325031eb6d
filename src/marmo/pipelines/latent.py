"""Latent diffusion, in one sentence: text to states, noise to latents under their guidance, latents to pixels.

Rombach et al. 2022.  Shapes: B pictures, C latent channels, H W height and width of the latents, T tokens.
"""

import math
from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from marmo.diffusion import samplers, schedules, sources
from marmo.files.record import Record
from marmo.models.tiny_decoder import TinyDecoder
from marmo.models.vae import VAE
from marmo.pipelines import first_stage
from marmo.pipelines.advice import explaining
from marmo.pipelines.beginning import Beginning, Opening, check_task
from marmo.pipelines.canvas import inputs, painted_size
from marmo.pipelines.card import LatentCard
from marmo.pipelines.doubler import Doubler, check_doubler
from marmo.pipelines.events import Event, Result, Stage, Step
from marmo.pipelines.experts import Expert, check_model, check_refiner, check_told, chosen, hand_over, refining
from marmo.pipelines.hires import Enlarging, Pass, check_hires, second_request, stretched
from marmo.pipelines.known_words import word_notes
from marmo.pipelines.painter import Ask, Decode, Painter, resolved
from marmo.pipelines.pixels import to_pictures
from marmo.pipelines.preview import linear_preview, tiny_preview
from marmo.pipelines.provenance import records, weight_hashes
from marmo.pipelines.residence import Residence
from marmo.pipelines.tiling import wrap_of
from marmo.pipelines.upscaler import Enlarge, Upscaler
from marmo.request import ImageRequest


class LatentDiffusion(Painter):
    """A model that paints requests.

    Args:
        card: the model; its weights are not read before `load` or the first picture.
        preview: a tiny decoder, already loaded, for `Step.preview`; without one the preview has a pixel per latent.
        refiner: a second model, which paints the end of the requests that name it.
        upscaler: a network that enlarges between the two passes of the requests that name it.
        residence: where the parts are while they are not needed; by default on the device.
    """

    def __init__(
        self,
        card: LatentCard,
        device: torch.device,
        dtype: torch.dtype,
        preview: TinyDecoder | None = None,
        refiner: Painter | None = None,
        upscaler: Upscaler | Doubler | None = None,
        residence: Residence | None = None,
    ) -> None:
        super().__init__(card, device, dtype, residence)
        if refiner is not None:
            check_refiner(card, refiner.card)
        if isinstance(upscaler, Doubler):
            check_doubler(card, upscaler.card)
        self.refiner, self.upscaler = refiner, upscaler
        self.preview = linear_preview(self._present_vae) if preview is None else tiny_preview(preview)

    def _present_vae(self) -> VAE:
        self.bring("vae")
        return self.vae

    @property
    def painters(self) -> tuple[Painter, ...]:
        """The model itself and, if there is one, its refiner."""
        return (self,) if self.refiner is None else (self, self.refiner)

    def load(self) -> None:
        """Read the weights, if they are not read yet."""
        super().load()
        if self.refiner is not None:
            self.refiner.load()
        if self.upscaler is not None:
            self.upscaler.load()

    def generate(self, request: ImageRequest) -> Result:
        """Paint a request to its end.  Where memory runs out, `NoRoom` says what to change."""
        with explaining(self, request):
            for event in self.stream(request):
                if isinstance(event, Result):
                    return event
        raise AssertionError("a stream ends with its result")

    def stream(self, request: ImageRequest) -> Iterator[Event]:
        """Paint a request, telling what happens.  Stop asking for events and the painting stops.

        Raises `ValueError` for a request that this model cannot paint, and for weights that give no numbers.
        """
        for event in self.walk(request):
            if isinstance(event, Ask | Decode | Enlarge):
                event.answer()
            else:
                yield event

    def walk(self, request: ImageRequest) -> Iterator[Event | Ask | Decode | Enlarge]:
        """The way of a request to its pictures, driven from outside: what is asked must be answered before the next.

        `stream` answers at once; a server answers many walks together.  The events, and what is raised, are `stream`'s.
        """
        request = self.resolve(request)
        passes = self._passes(request)
        first, source = passes[0], _source(request)
        opening = Opening.of(self, request, first.sigmas, source)
        self.shares(request)  # a mask that cannot be read is told before the weights are
        if not self.loaded:
            yield Stage("loading")
            self.load()
        yield Stage("encoding")
        begun = opening.begin()
        experts, notes = self._experts(first, begun.beside)
        notes += word_notes(self.card.concepts, request)
        again = [self._experts(walk, None) for walk in passes[1:]]
        latents = yield from self._paint(first, source, begun, experts)
        enlarging = None
        for second, (its_experts, its_notes) in zip(passes[1:], again, strict=True):
            yield Stage("upscaling")
            notes += its_notes
            enlarging = Enlarging(self, second, request.hires, self.upscaler)
            if not enlarging.is_all:
                source = _source(request)
                begun = yield from enlarging.begin(latents, source)
                latents = yield from self._paint(second, source, begun, its_experts)
        yield Stage("decoding")
        wrap = wrap_of(request)
        decoded = [Decode(self, row, wrap) for row in torch.split(latents, 1)]
        yield from decoded
        pixels: list[Tensor] = []
        for one in decoded:
            whole = resolved(one.pixels)
            pixels.append(whole if enlarging is None else (yield from enlarging.finish(whole, wrap)))
        pictures = tuple(opening.finish(picture) for whole in pixels for picture in to_pictures(whole))
        notes += (first_stage.WIDENED,) * any(one.widened for one in decoded)
        notes += (first_stage.IN_SMALL_TILES,) * any(one.small for one in decoded)
        yield Result(pictures, self._records(request, passes, experts), tuple(dict.fromkeys(notes)))

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with nothing left open; see `ImageRequest.resolve`.  Another model's request is refused."""
        check_model(request, self.card, None if self.refiner is None else self.refiner.card)
        check_told(request, [painter.card for painter in self.painters[: 2 if request.refiner.model else 1]])
        check_task(request, self.card)
        whole = self._sized(request).resolve(self.card.defaults)
        check_hires(whole, self.card, self.upscaler)
        return whole

    def sigmas(self, request: ImageRequest) -> Tensor:
        """The noise levels that a resolved request walks down.  S + 1, the last one 0."""
        sigmas = self._schedule(request)
        if request.strength is None:
            return sigmas
        return schedules.last_part(sigmas, request.strength, request.start)

    def _schedule(self, request: ImageRequest) -> Tensor:
        """The noise levels from pure noise, also where the run starts later."""
        name, steps = resolved(request.schedule), resolved(request.steps)
        return schedules.schedule(name, self.table, steps, request.discard_penultimate)

    def _passes(self, request: ImageRequest) -> tuple[Pass, ...]:
        """The one walk of a resolved request, or its two."""
        levels, sigmas = self._schedule(request), self.sigmas(request)
        if not request.hires.acts:
            return (Pass(request, levels, sigmas, 0, len(sigmas) - 1),)
        second = second_request(request, self.card.defaults.size_multiple)
        steps, strength = resolved(second.steps), resolved(second.strength)
        again = self._schedule(second.model_copy(update={"steps": stretched(steps, strength)}))
        left = again[-steps - 1 :] if strength else again[-1:]
        before, total = len(sigmas) - 1, len(sigmas) + len(left) - 2
        return Pass(request, levels, sigmas, 0, total), Pass(second, again, left, before, total)

    def enlarges_latents(self, request: ImageRequest) -> bool:
        """Whether a resolved request's second pass begins with the first's latents, without a way through pixels."""
        by_model = request.hires.model is not None and isinstance(self.upscaler, Doubler)
        return by_model or request.hires.keeps_latents

    def _sized(self, request: ImageRequest) -> ImageRequest:
        """A request that starts from a picture and names no size has the picture's, as the model can paint it."""
        given = inputs(request)
        if given is None or request.width is not None or request.height is not None:
            return request
        size = painted_size(request, given, self.card.vae.factor)
        if self.card.task == "upscale":
            size = tuple(side * self.card.vae.factor for side in given.picture.size)
        if self.card.task == "upscale_latents" and size is not None:
            size = tuple(2 * side for side in size)
        if size is None:
            return request
        width, height = size
        return ImageRequest.model_validate(request.model_copy(update={"width": width, "height": height}).model_dump())

    def hashes(self) -> dict[str, str]:
        """The sha256 of every weight file, by its name in a record."""
        return weight_hashes([painter.card for painter in self.painters], self.upscaler and self.upscaler.card)

    def _records(self, request: ImageRequest, passes: Sequence[Pass], experts: Sequence[Expert]) -> tuple[Record, ...]:
        cards = [expert.painter.card for expert in experts]
        sigmas = [float(sigma) for walk in passes for sigma in walk.sigmas]
        upscaler = self.upscaler.card if self.upscaler is not None and request.hires.model else None
        return records(request, cards, sigmas, self.device, self.dtype, upscaler)

    def _experts(self, walk: Pass, beside: Tensor | None) -> tuple[tuple[Expert, ...], tuple[str, ...]]:
        """Who paints which part of the way, and what the user should know of the prompts."""
        request, sigmas = walk.request, walk.sigmas
        guidance, notes = self.guidance(request, sigmas, beside, walk.past)
        first = Expert(math.inf, self, guidance)
        if self.refiner is None or request.refiner.model is None:
            return (first,), notes
        guidance, _ = self.refiner.guidance(refining(request, self.refiner.card), sigmas, past=walk.past)
        return (first, Expert(hand_over(self.table, request.refiner.switch), self.refiner, guidance)), notes

    def _noise(self, walk: Pass, source: sources.NoiseSource, x: Tensor) -> samplers.Noise:
        """The steps' noise: increments of a path for the samplers that need one, else fresh."""
        if walk.request.sampler not in samplers.BROWNIAN:
            return lambda s, t: source.normal(x.shape[1:]).to(x.device)
        path = source.path(x.shape[1:], walk.levels)
        return lambda s, t: path(s, t).to(x.device)

    def _paint(
        self, walk: Pass, source: sources.NoiseSource, begun: Beginning, experts: Sequence[Expert]
    ) -> Generator[Ask | Step, None, Tensor]:
        """Walk down a pass from its beginning, showing every answer."""
        name, noise, kept = resolved(walk.request.sampler), self._noise(walk, source, begun.x), begun.kept

        def answer(query: samplers.Query) -> Generator[Ask | Step, None, samplers.Prediction]:
            expert = chosen(experts, query.sigma)
            if kept is None:
                prediction = yield from expert.answer(query)
            else:
                prediction = kept.keep(query, (yield from expert.answer(kept.shown(query))))
            yield Step(walk.past + query.index, walk.total, float(query.sigma), prediction.x0, self.preview)
            return prediction

        sampling = samplers.sampling(name, begun.x, walk.sigmas, noise, walk.request.eta, self.table)
        return samplers.walk(sampling, answer)


def _source(request: ImageRequest) -> sources.NoiseSource:
    """The request's random numbers."""
    make, pictures = sources.NOISE_SOURCES[request.noise_source], range(request.num_images)
    source = make([request.picture_seed(image) for image in pictures])
    variation = request.variation
    if not variation.strength:
        return source
    other = make([resolved(variation.seed) + image for image in pictures])
    return sources.Varied(source, other, variation.strength)
