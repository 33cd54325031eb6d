"""Inception-v3 as the Frechet distance of pictures has been measured with since 2017: a picture to 2048 numbers.

Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567); the weights are those of the TensorFlow graph of 2015-12-05 that
Heusel et al. 2017 (https://arxiv.org/abs/1706.08500) took.  That graph is not torchvision's Inception-v3: it has 1008
classes, its average pools leave the zeros at the border out, and the pool of its last block takes the largest instead
of the average.  Published distances rest on all three.

Shapes: B batch, C channels, H W height and width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d, Linear

EPS = 0.001


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Every number of channels is a multiple of `unit`."""

    unit: int = 16                        # a toy has less
    num_classes: int = 1008

    @property
    def width(self) -> int:
        """Of the features."""
        return 128 * self.unit


INCEPTION_2015 = InceptionConfig()
INCEPTION_TOY = replace(INCEPTION_2015, unit=1, num_classes=5)


class Inception(nn.Module):
    """Convolutions and two poolings, eleven blocks of parallel branches, the mean over the picture."""

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        self.config = config
        unit = config.unit
        self.stem = nn.Sequential(
            ConvNorm(3, 2 * unit, 3, stride=2),
            ConvNorm(2 * unit, 2 * unit, 3),
            ConvNorm(2 * unit, 4 * unit, 3, padding=1),
            nn.MaxPool2d(3, stride=2),
            ConvNorm(4 * unit, 5 * unit, 1),
            ConvNorm(5 * unit, 12 * unit, 3),
            nn.MaxPool2d(3, stride=2),
        )
        self.blocks = nn.Sequential(
            _narrow(12, 2, unit),
            _narrow(16, 4, unit),
            _narrow(18, 4, unit),
            _halving_narrow(18, unit),
            *(_long(middle, unit) for middle in (8, 10, 10, 12)),
            _halving_long(unit),
            _wide(80, _average(), unit),
            _wide(128, nn.MaxPool2d(3, stride=1, padding=1), unit),
        )
        self.head = Linear(config.width, config.num_classes)  # the classifier; kept so that files stay whole

    def forward(self, x: Tensor) -> Tensor:
        """Pixels B 3 H W in [-1, 1], 299 high and wide for published numbers -> features B 2048."""
        x = self.blocks(self.stem(x))                                                 # B 2048 H/32 W/32
        return x.mean(dim=(2, 3))                                                     # B 2048


class ConvNorm(nn.Module):
    """Convolution, a norm with the statistics of the training, ReLU."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(channels, out_channels, size, stride, padding, bias=False)
        self.norm = FixedNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B C' H' W'."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class FixedNorm(nn.Module):
    """A batch norm that learns no more.  B C H W -> B C H W."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPS)


class Branches(nn.Module):
    """Several ways through a block, one after the other along the channels.  B C H W -> B C' H' W'."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _average() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


# The widths below are in units of 16 channels, the names those of the kernels.


def _narrow(into: int, pooled: int, unit: int) -> Branches:
    """Figure 5 of the paper: 1x1, 5x5, two 3x3, a pool."""
    into, pooled = into * unit, pooled * unit
    return Branches(
        nn.Sequential(ConvNorm(into, 4 * unit, 1)),
        nn.Sequential(ConvNorm(into, 3 * unit, 1), ConvNorm(3 * unit, 4 * unit, 5, padding=2)),
        nn.Sequential(
            ConvNorm(into, 4 * unit, 1),
            ConvNorm(4 * unit, 6 * unit, 3, padding=1),
            ConvNorm(6 * unit, 6 * unit, 3, padding=1),
        ),
        nn.Sequential(_average(), ConvNorm(into, pooled, 1)),
    )


def _halving_narrow(into: int, unit: int) -> Branches:
    into = into * unit
    return Branches(
        nn.Sequential(ConvNorm(into, 24 * unit, 3, stride=2)),
        nn.Sequential(
            ConvNorm(into, 4 * unit, 1),
            ConvNorm(4 * unit, 6 * unit, 3, padding=1),
            ConvNorm(6 * unit, 6 * unit, 3, stride=2),
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _long(middle: int, unit: int) -> Branches:
    """Figure 6: rows and columns of 7 in turn."""
    into, middle, out = 48 * unit, middle * unit, 12 * unit
    return Branches(
        nn.Sequential(ConvNorm(into, out, 1)),
        nn.Sequential(ConvNorm(into, middle, 1), _row(middle, middle, 7), _column(middle, out, 7)),
        nn.Sequential(
            ConvNorm(into, middle, 1),
            _column(middle, middle, 7),
            _row(middle, middle, 7),
            _column(middle, middle, 7),
            _row(middle, out, 7),
        ),
        nn.Sequential(_average(), ConvNorm(into, out, 1)),
    )


def _halving_long(unit: int) -> Branches:
    into, out = 48 * unit, 12 * unit
    return Branches(
        nn.Sequential(ConvNorm(into, out, 1), ConvNorm(out, 20 * unit, 3, stride=2)),
        nn.Sequential(ConvNorm(into, out, 1), _row(out, out, 7), _column(out, out, 7), ConvNorm(out, out, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _wide(into: int, pool: nn.Module, unit: int) -> Branches:
    """Figure 7: branches that fork once more at their ends."""
    into, out = into * unit, 24 * unit
    return Branches(
        nn.Sequential(ConvNorm(into, 20 * unit, 1)),
        nn.Sequential(ConvNorm(into, out, 1), Branches(_row(out, out, 3), _column(out, out, 3))),
        nn.Sequential(
            ConvNorm(into, 28 * unit, 1),
            ConvNorm(28 * unit, out, 3, padding=1),
            Branches(_row(out, out, 3), _column(out, out, 3)),
        ),
        nn.Sequential(pool, ConvNorm(into, 12 * unit, 1)),
    )


def _row(channels: int, out_channels: int, length: int) -> ConvNorm:
    return ConvNorm(channels, out_channels, (1, length), padding=(0, length // 2))


def _column(channels: int, out_channels: int, length: int) -> ConvNorm:
    return ConvNorm(channels, out_channels, (length, 1), padding=(length // 2, 0))
