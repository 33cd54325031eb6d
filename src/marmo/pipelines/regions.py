"""Regional prompts: how much of every place of the latents each prompt decides.

The shares of all prompts add up to 1 at every place, so that guidance is as strong inside a region as outside of it.

Shapes: H W height and width of the latents.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from marmo.files.pictures import decode_image
from marmo.request import Region


class Shares(NamedTuple):
    """What each prompt decides, all 1 1 H W, 0 to 1, float32."""

    rest: Tensor
    """The picture's own prompt: what the regions leave."""
    regions: tuple[Tensor, ...]


def shares(regions: Sequence[Region], height: int, width: int, device: torch.device) -> Shares:
    """The shares at these latents; where regions overlap by more than the whole, each in proportion to its weight.

    Raises `ValueError` for a mask that is no picture.
    """
    areas = [region.weight * _area(region, f"regions.{index}", height, width) for index, region in enumerate(regions)]
    taken = torch.stack(areas).sum(dim=0)
    whole = taken.clamp(min=1)
    return Shares((1 - taken).clamp(min=0).to(device), tuple((area / whole).to(device) for area in areas))


def _area(region: Region, name: str, height: int, width: int) -> Tensor:
    """Where the region lies: 1 inside, 0 outside, a cell at its edge by what of it lies inside.  1 1 H W."""
    if region.box is not None:
        left, top, right, bottom = region.box
        return (_covered(top, bottom, height)[:, None] * _covered(left, right, width))[None, None]
    assert region.mask is not None, "the request is not resolved"
    try:
        picture = decode_image(region.mask).convert("L")
    except ValueError as error:
        raise ValueError(f"{name}.mask: {error}") from None
    small = picture.resize((width, height), Image.Resampling.BOX)
    return torch.tensor(np.asarray(small))[None, None].float() / 255


def _covered(start: float, end: float, cells: int) -> Tensor:
    """What of each of so many cells of a line from 0 to 1 lies between two places."""
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    inside = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return (inside * cells).clamp(min=0).float()
