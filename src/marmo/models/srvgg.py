"""Real-ESRGAN's small network: a row of convolutions at the size of the picture, unfolded at its end.

`realesr-general-x4v3` and `realesr-animevideov3` (xinntao/Real-ESRGAN, `srvgg_arch.py`; Shi et al. 2016 for the
unfolding).

Shapes: B batch, C channels, H W height and width of the small picture, s the scale.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from marmo.nn.engine import Conv2d


@dataclass(frozen=True, kw_only=True)
class SRVGGConfig:
    """`num_convs` counts those between the first and the last."""

    scale: int = 4
    channels: int = 64
    num_convs: int = 32


REALESR_GENERAL = SRVGGConfig()
REALESR_ANIME = SRVGGConfig(num_convs=16)


class SRVGG(nn.Module):
    """Colours in [0, 1] to a larger picture's, about [0, 1]."""

    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        channels, count = config.channels, config.num_convs + 1
        inputs = [3] + [channels] * config.num_convs
        self.convs = nn.ModuleList(Conv2d(width, channels, 3, padding=1) for width in inputs)
        self.bends = nn.ModuleList(nn.PReLU(channels) for _ in range(count))
        self.conv_out = Conv2d(channels, 3 * config.scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """B 3 H W -> B 3 sH sW."""
        h = x
        for conv, bend in zip(self.convs, self.bends, strict=True):
            h = bend(conv(h))                                                         # B C H W
        scale = self.config.scale
        return F.pixel_shuffle(self.conv_out(h), scale) + F.interpolate(x, scale_factor=float(scale), mode="nearest")
