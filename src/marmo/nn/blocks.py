"""Convolutional blocks that the U-Net, the autoencoders and the discriminators share.

Shapes: B batch, C channels, H W height and width, E width of the time embedding.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d, GroupNorm, Linear


class ResBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus a shortcut (1x1 where the channels differ).

    With a `time_width`, a projection of the time embedding is added between the convolutions.  In training `dropout` is
    the share of the second convolution's input that is left out.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_groups: int,
        eps: float,
        time_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(num_groups, channels, eps)
        self.conv1 = Conv2d(channels, out_channels, 3, padding=1)
        self.time = None if time_width is None else Linear(time_width, out_channels)
        self.norm2 = GroupNorm(num_groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if channels == out_channels else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x B C H W, time B E (after its SiLU) -> B C' H W."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))                           # B C' H W
        if self.time is not None and time is not None:
            h = h + self.time(time)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h), inplace=True)))
        return self.shortcut(x) + h


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """B C H W -> B C 2H 2W, or B C of another `size` where halving had rounded up."""
        size = (2 * x.shape[2], 2 * x.shape[3]) if size is None else size
        return self.conv(F.interpolate(x, size, mode="nearest"))
