"""ESRGAN's kind of model, in one sentence: a picture to a larger one, tile by tile.

Wang et al. 2018 and 2021.  Shapes: B pictures, H W height and width, s the network's scale.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.files.pictures import decode_image
from marmo.models.rrdb import RRDB, RRDBConfig
from marmo.models.srvgg import SRVGG, SRVGGConfig
from marmo.nn.blueprint import blueprint
from marmo.nn.engine import Wrap, wrapped
from marmo.pipelines.card import UpscalerCard
from marmo.pipelines.enlarge import enlarge_pixels
from marmo.pipelines.events import Event, Result, Stage
from marmo.pipelines.experts import check_name
from marmo.pipelines.pixels import to_pictures, to_tensor
from marmo.pipelines.provenance import records
from marmo.pipelines.tiles import Grid, in_tiles
from marmo.pipelines.tiling import wrap_of
from marmo.request import MAX_SIDE, Defaults, ImageRequest
from marmo.weights.keymap import fill
from marmo.weights.kinds import Slot

TILE, OVERLAP = 192, 16
"""Pixels of the small picture."""

USED = frozenset({"model", "init_image", "width", "height", "seed", "num_images", "tiling", "noise_source", "start"})
"""Fields that act, or that every record has."""
DEFAULTS = Defaults(size_multiple=1, unused=frozenset(ImageRequest.model_fields) - USED)


class Upscaler:
    """A model that enlarges pictures.

    Args:
        card: the model; its weights are not read before `load`.
    """

    def __init__(self, card: UpscalerCard, device: torch.device, dtype: torch.dtype) -> None:
        self.card, self.device, self.dtype = card, device, dtype
        with blueprint():
            self.network = enlarger(card.config)
        self.loaded = False

    @property
    def scale(self) -> int:
        """Pixels of the result for each of the picture, along each axis."""
        return self.card.config.scale

    @property
    def networks(self) -> dict[Slot, nn.Module]:
        """Its one network."""
        return {"rrdb" if isinstance(self.card.config, RRDBConfig) else "srvgg": self.network}

    def load(self) -> None:
        """Read the weights, if they are not read yet."""
        if not self.loaded:
            fill(self.network, self.card.tensors, self.dtype, self.device)
            self.loaded = True

    def generate(self, request: ImageRequest) -> Result:
        """Enlarge a picture."""
        *_, result = self.stream(request)
        assert isinstance(result, Result), "a stream ends with its result"
        return result

    def stream(self, request: ImageRequest) -> Iterator[Event]:
        """Enlarge a picture, telling what happens.  Raises `ValueError` for a request that is for no upscaler."""
        request = self.resolve(request)
        pixels = self._pixels(request)
        if not self.loaded:
            yield Stage("loading")
            self.load()
        yield Stage("upscaling")
        assert request.width is not None and request.height is not None, "the request is resolved"
        wrap = wrap_of(request)
        large = enlarge_pixels(self.enlarge(pixels, wrap), request.height, request.width, wrap)
        yield Result(tuple(to_pictures(large)), records(request, [self.card], (), self.device, self.dtype))

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with nothing left open: the picture times the network's scale where no size is wished."""
        check_name(request, self.card)
        if request.init_image is None:
            raise ValueError(f"{self.card.name} enlarges pictures and paints none; give it an init_image")
        if request.num_images > 1:
            raise ValueError(f"{self.card.name} makes one picture of one, not {request.num_images}")
        size = self._size(request)
        if max(size) > MAX_SIDE:
            raise ValueError(f"the picture would become {size[0]} x {size[1]}; a side has at most {MAX_SIDE} pixels")
        whole = request.model_copy(update={"width": size[0], "height": size[1], "seed": request.seed or 0})
        return whole.resolve(DEFAULTS)

    def _size(self, request: ImageRequest) -> tuple[int, int]:
        """Width and height of the result; of one that is not given, as the other says."""
        width, height = picture_size(request)
        if request.width is None and request.height is None:
            return width * self.scale, height * self.scale
        wide = request.width or max(round((request.height or 0) * width / height), 1)
        return wide, request.height or max(round(wide * height / width), 1)

    def _pixels(self, request: ImageRequest) -> Tensor:
        width, height = picture_size(request)
        assert request.init_image is not None, "the request is resolved"
        return to_tensor(decode_image(request.init_image), width, height).to(self.device)

    def hashes(self) -> dict[str, str]:
        """The sha256 of the weight file, by its name in a record."""
        return self.card.hashes()

    def enlarge(self, pixels: Tensor, wrap: Wrap) -> Tensor:
        """B 3 H W in [-1, 1] -> B 3 sH sW in [-1, 1], float32; `ValueError` for weights that give no numbers."""
        large = in_tiles(self._enlarge_tile, pixels, 3, tiling(self.scale), wrap)
        if not bool(torch.isfinite(large).all()):
            name = str(self.dtype).removeprefix("torch.")
            raise ValueError(f"{self.card.name} gives no numbers in {name}; it is damaged or needs dtype float32")
        return large

    def _enlarge_tile(self, pixels: Tensor, wrap: Wrap) -> Tensor:
        """The network's colours are in [0, 1], and where it folds pixels the tile must fit."""
        height, width = pixels.shape[2:]
        fold = self.card.config.fold if isinstance(self.card.config, RRDBConfig) else 1
        colours = F.pad(pixels / 2 + 0.5, (0, -width % fold, 0, -height % fold), "replicate").to(self.dtype)
        with wrapped(self.network, wrap):
            large: Tensor = self.network(colours)
        return large[:, :, : height * self.scale, : width * self.scale].float().clamp(0, 1) * 2 - 1


def enlarger(config: RRDBConfig | SRVGGConfig) -> RRDB | SRVGG:
    """The network of a config."""
    return RRDB(config) if isinstance(config, RRDBConfig) else SRVGG(config)


def tiling(scale: int) -> Grid:
    """The tiles in which pictures are enlarged."""
    return Grid(TILE * TILE, TILE, OVERLAP, inner=1, outer=scale)


def picture_size(request: ImageRequest) -> tuple[int, int]:
    """Width and height of the picture that the request starts from."""
    assert request.init_image is not None, "the request starts from a picture"
    try:
        return decode_image(request.init_image).size
    except ValueError as error:
        raise ValueError(f"init_image: {error}") from None
