"""Pixel diffusion, in one sentence: noise to pixels, step by step, with nobody to ask for anything.

Ho et al. 2020.  Shapes: B pictures, C channels (3, or 1 for grey ones), H W height and width.
"""

from collections.abc import Generator, Iterator

import torch
from PIL import Image
from torch import Tensor

from marmo.diffusion import samplers, schedules, sources
from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.noise import Betas, NoiseTable
from marmo.diffusion.seeing import seen
from marmo.models.pixel_unet import PixelUNet, PixelUNetConfig
from marmo.nn.blueprint import blueprint
from marmo.pipelines.card import PixelCard
from marmo.pipelines.events import Event, Result, Stage, Step
from marmo.pipelines.experts import check_name
from marmo.pipelines.painter import resolved
from marmo.pipelines.pixels import to_pictures
from marmo.pipelines.provenance import records
from marmo.request import Defaults, ImageRequest
from marmo.weights.keymap import fill

USED = frozenset(
    {"model", "width", "height", "steps", "sampler", "schedule", "discard_penultimate", "eta", "seed", "num_images"}
    | {"noise_source", "start"}
)
"""Fields that act."""
MAX_STEPS = 1000
"""Of a request."""


def pixel_defaults(config: PixelUNetConfig, betas: Betas) -> Defaults:
    """As in the paper: every noise level of the training, with the posterior's fresh noise."""
    return Defaults(
        width=config.side,
        height=config.side,
        steps=min(betas.num_levels, MAX_STEPS),
        sampler="ddpm",
        schedule="normal",
        size_multiple=config.factor,
        unused=frozenset(ImageRequest.model_fields) - USED,
    )


class PixelDiffusion:
    """A model that paints without words.

    Args:
        card: the model; its weights are not read before `load`.
    """

    def __init__(self, card: PixelCard, device: torch.device, dtype: torch.dtype) -> None:
        self.card, self.device, self.dtype = card, device, dtype
        self.table = NoiseTable(card.betas)
        self.parametrisation = Parametrisation(card.target, self.table)
        with blueprint():
            self.network = PixelUNet(card.config)
        self.loaded = False

    def load(self) -> None:
        """Read the weights, if they are not read yet."""
        if not self.loaded:
            fill(self.network, self.card.tensors, self.dtype, self.device)
            self.loaded = True

    def generate(self, request: ImageRequest) -> Result:
        """Paint a request to its end."""
        *_, result = self.stream(request)
        assert isinstance(result, Result), "a stream ends with its result"
        return result

    def stream(self, request: ImageRequest) -> Iterator[Event]:
        """Paint a request, telling what happens.  Stop asking for events and the painting stops.

        Raises `ValueError` for a request that this model cannot paint, and for weights that give no numbers.
        """
        request = self.resolve(request)
        sigmas = self.sigmas(request)
        if not self.loaded:
            yield Stage("loading")
            self.load()
        pixels = yield from self._paint(request, sigmas)
        if not bool(torch.isfinite(pixels).all()):
            name = str(self.dtype).removeprefix("torch.")
            raise ValueError(f"{self.card.name} gives no numbers in {name}; it is damaged or needs dtype float32")
        made = records(request, [self.card], [float(sigma) for sigma in sigmas], self.device, self.dtype)
        yield Result(tuple(_pictures(pixels)), made)

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with nothing left open; see `ImageRequest.resolve`."""
        check_name(request, self.card)
        return request.resolve(self.card.defaults)

    def sigmas(self, request: ImageRequest) -> Tensor:
        """The noise levels that a resolved request walks down.  S + 1, the last one 0."""
        name, steps = resolved(request.schedule), resolved(request.steps)
        return schedules.schedule(name, self.table, steps, request.discard_penultimate)

    def hashes(self) -> dict[str, str]:
        """The sha256 of every weight file, by its name in a record."""
        return self.card.hashes()

    def _paint(self, request: ImageRequest, sigmas: Tensor) -> Generator[Step, None, Tensor]:
        seeds = [request.picture_seed(image) for image in range(request.num_images)]
        source = sources.NOISE_SOURCES[request.noise_source](seeds)
        shape = self.card.config.in_channels, resolved(request.height), resolved(request.width)
        scale = (1 + sigmas[0] ** 2).sqrt() if request.start == "diffusers" else sigmas[0]
        x = source.start(shape).to(self.device) * scale
        walk = samplers.sampling(
            resolved(request.sampler), x, sigmas, self._noise(request, source, shape, sigmas), request.eta, self.table
        )
        answer, total = seen(self._ask, self.parametrisation, self.card.bound), len(sigmas) - 1

        def shown(query: samplers.Query) -> Generator[Step, None, samplers.Prediction]:
            prediction = answer(query)
            yield Step(query.index, total, float(query.sigma), prediction.x0, _pictures)
            return prediction

        return (yield from samplers.walk(walk, shown))

    @torch.no_grad()
    def _ask(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x.to(self.dtype), t)

    def _noise(
        self, request: ImageRequest, source: sources.NoiseSource, shape: tuple[int, int, int], sigmas: Tensor
    ) -> samplers.Noise:
        """The steps' noise: increments of a path for the samplers that need one, else fresh."""
        if request.sampler not in samplers.BROWNIAN:
            return lambda s, t: source.normal(shape).to(self.device)
        path = source.path(shape, sigmas)
        return lambda s, t: path(s, t).to(self.device)


def _pictures(pixels: Tensor) -> list[Image.Image]:
    """Grey ones too: B 1 or 3, H W in [-1, 1] -> B RGB pictures."""
    return to_pictures(pixels.expand(-1, 3, -1, -1))
