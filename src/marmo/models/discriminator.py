"""The patch discriminator: which parts of a picture look real?

Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", section 6.1.1, as VQGAN takes it
(Esser et al. 2021): every number of the answer is about one patch, 70 pixels a side for a depth of 3.

Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d

MOST = 8                                  # the width grows no further than so many times the first


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """`depth` convolutions halve the picture; the width doubles with each but the first."""

    width: int = 64
    depth: int = 3


PATCHES_70 = DiscriminatorConfig()


class Discriminator(nn.Module):
    """4x4 convolutions with batch norms and leaky ReLUs."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_in = Conv2d(3, config.width, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*_blocks(config))
        self.conv_out = Conv2d(config.width * min(2**config.depth, MOST), 1, 4, padding=1)
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """B 3 H W in [-1, 1] -> B 1 H' W': large where a patch looks real."""
        x = F.leaky_relu(self.conv_in(pixels), 0.2)                                   # B C H/2 W/2
        return self.conv_out(self.blocks(x))


def _blocks(config: DiscriminatorConfig) -> Iterator[nn.Module]:
    widths = [config.width * min(2**level, MOST) for level in range(config.depth + 1)]
    for level, (before, width) in enumerate(pairwise(widths), 1):
        stride = 2 if level < config.depth else 1
        yield Conv2d(before, width, 4, stride=stride, padding=1, bias=False)
        yield nn.BatchNorm2d(width)
        yield nn.LeakyReLU(0.2)


def _initialise(module: nn.Module) -> None:
    """As pix2pix: convolutions N(0, 0.02), scales of norms N(1, 0.02)."""
    if isinstance(module, Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
