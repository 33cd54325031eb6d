"""ESRGAN's kind of model, in one sentence: a picture to a larger one, tile by tile.

Wang et al. 2018 and 2021.  Shapes: B pictures, H W height and width, s the network's scale.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.files.names import model_name
from marmo.files.pictures import decode_image
from marmo.models.rrdb import RRDB, RRDBConfig
from marmo.models.srvgg import SRVGG, SRVGGConfig
from marmo.nn.blueprint import blueprint
from marmo.nn.engine import Wrap, wrapped
from marmo.pipelines.card import NoNetwork, UpscalerCard
from marmo.pipelines.enlarge import enlarge_pixels
from marmo.pipelines.events import Event, Result, Stage
from marmo.pipelines.experts import check_name
from marmo.pipelines.pixels import to_pictures, to_tensor
from marmo.pipelines.provenance import records, weight_hashes
from marmo.pipelines.tiles import Grid, in_tiles, num_pieces, one_by_one
from marmo.pipelines.tiling import wrap_of
from marmo.request import MAX_SIDE, Defaults, ImageRequest
from marmo.weights.keymap import fill

TILE, OVERLAP = 192, 16
"""Pixels of the small picture."""

USED = frozenset(
    {"model", "init_image", "width", "height", "upscale", "seed", "num_images", "tiling", "noise_source", "start"}
)
"""Fields that act, or that every record has."""

SMALLER = 2
"""A piece that memory has no room for is enlarged in pieces of a side smaller by this."""
IN_SMALL_TILES = "memory ran out, so the picture was enlarged in small tiles"


@dataclass(eq=False)
class Enlarge:
    """A piece of a picture, 1 3 H W, that a walk must see enlarged before it can go on."""

    upscaler: "Upscaler"
    pixels: Tensor
    wrap: Wrap
    index: int
    """Which of the walk's pieces it is, from 0."""
    total: int
    larger: Tensor | None = None
    """1 3 sH sW"""
    small: bool = False
    """Whether it was enlarged in small tiles."""

    def taken(self) -> Tensor:
        """What it was answered with, which it holds no longer."""
        larger, self.larger = self.larger, None
        assert larger is not None, "a work is answered before the next is asked for"
        return larger

    def answer(self) -> None:
        self.larger = self.upscaler.enlarge_piece(self.pixels, self.wrap)

    def answer_in_tiles(self) -> None:
        """The same with less memory."""
        self.small = True
        self.larger = in_tiles(self.upscaler.enlarge_piece, self.pixels, 3, self.upscaler.grid(SMALLER), self.wrap)


class Upscaler:
    """A model that enlarges pictures.

    Args:
        card: the model; its weights are not read before `load`.
        second: another one, whose pictures are laid over the first's where a request names it.
    """

    def __init__(
        self, card: UpscalerCard, device: torch.device, dtype: torch.dtype, second: "Upscaler | None" = None
    ) -> None:
        self.card, self.device, self.dtype, self.second = card, device, dtype, second
        with blueprint():
            self.network = enlarger(card.config)
        self.loaded = False

    @property
    def scale(self) -> int:
        """Pixels of the result for each of the picture, along each axis."""
        return self.card.config.scale

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Its one network."""
        return {"upscaler": self.network}

    def load(self) -> None:
        """Read the weights, if they are not read yet."""
        if not self.loaded:
            fill(self.network, self.card.tensors, self.dtype, self.device)
            self.loaded = True
        if self.second is not None:
            self.second.load()

    def generate(self, request: ImageRequest) -> Result:
        """Enlarge a picture."""
        *_, result = self.stream(request)
        assert isinstance(result, Result), "a stream ends with its result"
        return result

    def stream(self, request: ImageRequest) -> Iterator[Event]:
        """Enlarge a picture, telling what happens.  Raises `ValueError` for a request that is for no upscaler."""
        for event in self.walk(request):
            if isinstance(event, Enlarge):
                event.answer()
            else:
                yield event

    def walk(self, request: ImageRequest) -> Iterator[Event | Enlarge]:
        """The way to the larger picture, driven from outside, as `LatentDiffusion.walk` is."""
        request = self.resolve(request)
        pixels = self._pixels(request)
        if not self.loaded:
            yield Stage("loading")
            self.load()
        yield Stage("upscaling")
        wrap, total = wrap_of(request), sum(model.num_pieces(pixels, wrap_of(request)) for model in self.models)
        assert request.width is not None and request.height is not None, "the request is resolved"
        large, works = list[Tensor](), list[Enlarge]()
        for model in self.models:
            whole = yield from model.works(pixels, wrap, works, total)
            large.append(enlarge_pixels(whole, request.height, request.width, wrap))
        shown = large[0] if self.second is None else large[0] + request.upscale.share * (large[1] - large[0])
        notes = (IN_SMALL_TILES,) * any(work.small for work in works)
        second = None if self.second is None else self.second.card
        made = records(request, [self.card], (), self.device, self.dtype, second=second)
        yield Result(tuple(to_pictures(shown)), made, notes)

    @property
    def models(self) -> "tuple[Upscaler, ...]":
        """The model itself and, if there is one, the second."""
        return (self,) if self.second is None else (self, self.second)

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with nothing left open: the picture times the network's scale where no size is wished."""
        check_name(request, self.card)
        wanted, there = model_name(request.upscale.model), None if self.second is None else self.second.card.name
        if wanted != there:
            raise ValueError(f"the request is for the second upscaler {wanted}, and {there or 'none'} is loaded")
        request = request.model_copy(update={"seed": request.seed or 0}).resolve(defaults_of(self.card))
        size = request.upscale.size(picture_size(request), request.width, request.height, self.scale)
        if max(size) > MAX_SIDE:
            raise ValueError(f"the picture would become {size[0]} x {size[1]}; a side has at most {MAX_SIDE} pixels")
        upscale = request.upscale.model_copy(update={"scale": None, "cover": False})
        return request.model_copy(update={"width": size[0], "height": size[1], "upscale": upscale})

    def _pixels(self, request: ImageRequest) -> Tensor:
        width, height = picture_size(request)
        assert request.init_image is not None, "the request is resolved"
        return to_tensor(decode_image(request.init_image), width, height).to(self.device)

    def hashes(self) -> dict[str, str]:
        """The sha256 of the weight files, by their names in a record."""
        return weight_hashes([self.card], self.second and self.second.card)

    def enlarge(self, pixels: Tensor, wrap: Wrap) -> Tensor:
        """B 3 H W in [-1, 1] -> B 3 sH sW in [-1, 1], float32; `ValueError` for weights that give no numbers."""
        return in_tiles(self.enlarge_piece, pixels, 3, self.grid(), wrap)

    def works(self, pixels: Tensor, wrap: Wrap, works: list[Enlarge], total: int) -> Generator[Enlarge, None, Tensor]:
        """The same as works that somebody else answers; they are added to those before them, of so many in all."""
        pieces = one_by_one(pixels, 3, self.grid(), wrap)
        try:
            part = next(pieces)
            while True:
                works.append(Enlarge(self, *part, len(works), total))
                yield works[-1]
                part = pieces.send(works[-1].taken())
        except StopIteration as end:
            return cast(Tensor, end.value)

    def num_pieces(self, pixels: Tensor, wrap: Wrap) -> int:
        """How many works that makes."""
        return num_pieces(pixels, self.grid(), wrap)

    def grid(self, smaller: int = 1) -> Grid:
        """The tiles of a picture, of a side that is smaller by this where memory is short."""
        return tiling(self.scale, smaller)

    def enlarge_piece(self, pixels: Tensor, wrap: Wrap) -> Tensor:
        """What the network makes of a picture in one go."""
        large = self._asked(pixels, wrap)
        if not bool(torch.isfinite(large).all()):
            name = str(self.dtype).removeprefix("torch.")
            raise ValueError(f"{self.card.name} gives no numbers in {name}; it is damaged or needs dtype float32")
        return large

    def _asked(self, pixels: Tensor, wrap: Wrap) -> Tensor:
        """The network's colours are in [0, 1], and where it folds pixels the tile must fit."""
        height, width = pixels.shape[2:]
        fold = self.card.config.fold if isinstance(self.card.config, RRDBConfig) else 1
        colours = F.pad(pixels / 2 + 0.5, (0, -width % fold, 0, -height % fold), "replicate").to(self.dtype)
        with wrapped(self.network, wrap):
            large: Tensor = self.network(colours)
        return large[:, :, : height * self.scale, : width * self.scale].float().clamp(0, 1) * 2 - 1


def enlarger(config: RRDBConfig | SRVGGConfig | NoNetwork) -> RRDB | SRVGG | nn.Identity:
    """The network of a config."""
    match config:
        case RRDBConfig():
            return RRDB(config)
        case SRVGGConfig():
            return SRVGG(config)
        case NoNetwork():
            return nn.Identity()


def tiling(scale: int, smaller: int = 1) -> Grid:
    """The tiles of a picture, of a side that is smaller by this where memory is short."""
    side = TILE // smaller
    return Grid(side * side, side, OVERLAP, inner=1, outer=scale)


def defaults_of(card: UpscalerCard) -> Defaults:
    """What can be asked of a model that only enlarges."""
    return Defaults(
        size_multiple=1, unused=frozenset(ImageRequest.model_fields) - USED, paints=False, grows=card.config.scale
    )


def picture_size(request: ImageRequest) -> tuple[int, int]:
    """Width and height of the picture that the request starts from."""
    assert request.init_image is not None, "the request starts from a picture"
    try:
        return decode_image(request.init_image).size
    except ValueError as error:
        raise ValueError(f"init_image: {error}") from None
