"""An oracle: a finder that says where things are in a picture, and a namer that says what each of them is.

The finder sees the whole picture, small, and predicts things as points with boxes (Zhou et al. 2019, "Objects as
Points"); the namer sees one thing at a time, cut out.  Their trunks are of one architecture or of another, so that one
oracle can watch over the other.

Shapes: B batch, C channels, S side of the picture that a trunk takes, G cells along a side, K classes.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from marmo.models.resnet import ResNet, ResNetConfig
from marmo.models.vgg import VGG, VGGConfig
from marmo.nn.engine import Conv2d, Linear

TrunkConfig = ResNetConfig | VGGConfig

STRIDE = 8                                # of either trunk
CELLS_PER_FEATURE = 2                     # along a side: the finder's cells are 4 pixels wide
MARGIN = 1.16                             # a cut-out is so many times as large as the box that it is for


@dataclass(frozen=True, kw_only=True)
class OracleConfig:
    """The types of `finder` and `namer` say which architecture they are."""

    finder: TrunkConfig
    namer: TrunkConfig
    num_concepts: int
    num_looks: int                        # of every concept: artists' drawings of it, or a shape's fillings
    num_colours: int                      # without the drawing's own
    finder_size: int = 64                 # pixels along the side of the picture that the finder takes
    namer_size: int = 48                  # and of the cut-outs


RESIDUAL = OracleConfig(
    finder=ResNetConfig(widths=(32, 96)),
    namer=ResNetConfig(widths=(64, 224)),
    num_concepts=863,
    num_looks=3,
    num_colours=11,
)
GUARD = replace(
    RESIDUAL,
    finder=VGGConfig(widths=(16, 32, 48, 64)),
    namer=VGGConfig(widths=(24, 48, 96, 144)),
)


class Cells(NamedTuple):
    """What the finder says of every cell."""

    logits: Tensor                        # B G G: whether the middle of a thing lies in it
    offset: Tensor                        # B 2 G G: where in the cell, x and y in [0, 1]
    size: Tensor                          # B 2 G G: log of the box's width and height, in pictures


class Names(NamedTuple):
    """What the namer says of a cut-out."""

    look: Tensor                          # B K L, for every look of every concept
    nothing: Tensor                       # B 1: it is nothing that I know
    colour: Tensor                        # B K + 1; the last one is "as its artist coloured it"

    @property
    def concept(self) -> Tensor:
        """Whichever look it has.  -> B K + 1; the last one is "nothing that I know"; logits."""
        return torch.cat([self.look.logsumexp(2), self.nothing], 1)

    def cooled(self, temperature: float) -> "Names":
        """As sure of what it is as it may be (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""
        return self._replace(look=self.look / temperature, nothing=self.nothing / temperature)


class Oracle(nn.Module):
    """Finder and namer."""

    def __init__(self, config: OracleConfig) -> None:
        super().__init__()
        self.config = config
        self.finder = Finder(config.finder)
        self.namer = Namer(config)

    def find(self, pixels: Tensor) -> Cells:
        """Pictures B 3 H W in [-1, 1] of any size -> one statement per cell."""
        return self.finder(shrink(pixels, self.config.finder_size))

    def name(self, crops: Tensor) -> Names:
        """Cut-outs B 3 S S in [-1, 1], S the `namer_size`."""
        return self.namer(crops)


class Finder(nn.Module):
    """A trunk and five numbers for each of its cells."""

    def __init__(self, trunk: TrunkConfig) -> None:
        super().__init__()
        self.trunk = _trunk(trunk)
        self.head = Conv2d(trunk.out_channels, 5 * CELLS_PER_FEATURE**2, 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias[: CELLS_PER_FEATURE**2], -4.0)   # nearly all cells are empty

    def forward(self, pixels: Tensor) -> Cells:
        """B 3 S S -> G = S/4 cells along a side."""
        x = F.pixel_shuffle(self.head(self.trunk(pixels)), CELLS_PER_FEATURE)         # B 5 G G
        return Cells(x[:, 0], x[:, 1:3].sigmoid(), x[:, 3:])


class Namer(nn.Module):
    """A trunk, the average of its cells, classifiers.

    Every look of a concept is a class of its own: two artists' drawings of a fox need not look alike to the trunk.
    """

    def __init__(self, config: OracleConfig) -> None:
        super().__init__()
        width = config.namer.out_channels
        self.num_looks = config.num_looks
        self.trunk = _trunk(config.namer)
        self.look = Linear(width, config.num_concepts * config.num_looks)
        self.nothing = Linear(width, 1)
        self.colour = Linear(width, config.num_colours + 1)

    def features(self, crops: Tensor) -> Tensor:
        """B 3 S S -> B C."""
        return self.trunk(crops).mean((2, 3))

    def forward(self, crops: Tensor) -> Names:
        """B 3 S S -> logits."""
        x = self.features(crops)                                                      # B C
        looks = rearrange(self.look(x), "b (k l) -> b k l", l=self.num_looks)         # B K L
        return Names(looks, self.nothing(x), self.colour(x))


def cut_out(pixels: Tensor, rows: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Squares around boxes, `MARGIN` times as large as their longer side.

    Args:
        pixels: pictures, B 3 H W, best no larger than 128 pixels, since every output pixel averages four samples.
        rows: whose box it is, N.
        boxes: left, top, right, bottom as shares of the picture, N 4.

    Returns: N 3 `size` `size`; beyond a picture's edge its border goes on.
    """
    middle = boxes[:, :2] + boxes[:, 2:] - 1                                          # N 2, in [-1, 1]
    half = MARGIN * (boxes[:, 2:] - boxes[:, :2]).amax(1)                               # N
    turn = torch.zeros(len(boxes), 2, 3, device=pixels.device)
    turn[:, 0, 0] = turn[:, 1, 1] = half
    turn[:, :, 2] = middle
    grid = F.affine_grid(turn, [len(boxes), 3, 2 * size, 2 * size], align_corners=False)
    return F.avg_pool2d(F.grid_sample(pixels[rows], grid, padding_mode="border", align_corners=False), 2)


def shrink(pixels: Tensor, size: int) -> Tensor:
    """B 3 H W -> B 3 `size` `size`, smooth."""
    if pixels.shape[2:] == (2 * size, 2 * size):
        return F.avg_pool2d(pixels, 2)
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _trunk(config: TrunkConfig) -> nn.Module:
    match config:
        case ResNetConfig():
            return ResNet(config)
        case VGGConfig():
            return VGG(config)
