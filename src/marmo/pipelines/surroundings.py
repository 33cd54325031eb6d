"""A hole filled with the colours around it, the more blurred the farther they are: pull, then push.

Gortler et al. 1996, The Lumigraph, section 3.2.1: coarser and coarser averages of what is known, until one reaches
across the hole; then every level fills the gaps of the next finer one.

Shapes: C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def surrounded(picture: Tensor, hole: Tensor) -> Tensor:
    """1 C H W with the hole (1 1 H W, bool) filled; what lies outside it is unchanged.  All hole gives grey 0."""
    weight = (~hole).to(picture)
    return torch.where(hole, _filled(picture * weight, weight), picture)


def _filled(weighted: Tensor, weight: Tensor) -> Tensor:
    """Colours everywhere, from colours times weights (0 to 1)."""
    height, width = weight.shape[2:]
    if height == width == 1:
        return weighted / weight.clamp(min=1e-6)
    coarse, known = (F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in (weighted, weight))
    # A cell that is known at all is as good as known: the weight saturates, as in the paper.
    gain = (4 * known).clamp(max=1) / known.clamp(min=1e-6)
    far = F.interpolate(_filled(coarse * gain, known * gain), (height, width), mode="bilinear", align_corners=False)
    return weighted + (1 - weight) * far
