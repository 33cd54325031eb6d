"""SVG to pixels, and what the pixels say: where a drawing's ink lies and which hue most of it has.

Needs the `data` extra (resvg), which only the building of assets and the first rendering of an atlas call.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from marmo.data.colours import GREY_CHROMA, Lab, chroma_of, in_cluster, to_oklab, triple

Box = tuple[float, float, float]
"""Left, top and side of the square of the drawing's own plane that is shown."""

MARGIN = 0.02
"""Of the side, left free around the ink."""

MIN_CHROMA = 0.06
"""A duller cluster would make noise glow when it is turned to a brighter colour."""


@dataclass(frozen=True)
class Measure:
    """What the assets keep about a drawing beside its lines."""

    box: Box
    size: tuple[float, float]
    """Width and height of the ink, as shares of the box's side."""
    colour: Lab | None
    """OKLab of the dominant cluster; None where there is none to recolour."""
    tone: Lab
    """OKLab of the ink on the average, which a background must differ from."""


def rasterise(body: str, box: Box, pixels: int) -> Tensor:
    """The part of an SVG body that `box` shows.  pixels pixels 4, uint8, alpha not multiplied in."""
    try:
        import resvg_py
    except ImportError as error:
        raise ValueError("drawing the scenes for the first time needs: pip install 'marmo[data]'") from error
    left, top, side = box
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{pixels}"'
    svg = f'{head} height="{pixels}" viewBox="{left:g} {top:g} {side:g} {side:g}">{body}</svg>'
    data = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return torch.tensor(np.array(Image.open(BytesIO(data)).convert("RGBA")))


def measure(body: str, side: float) -> Measure:
    """Looks at a drawing on its plane of `side` x `side` units."""
    image = rasterise(body, (0, 0, side), 256)
    rows, columns = (torch.nonzero((image[..., 3] > 8).any(axis)).flatten() for axis in (1, 0))
    if not bool((image[..., 3] > 200).any()):
        raise ValueError("this drawing is empty")
    top, bottom = int(rows[0]) / 256, int(rows[-1] + 1) / 256
    left, right = int(columns[0]) / 256, int(columns[-1] + 1) / 256
    width, height = right - left, bottom - top
    shown = max(width, height) / (1 - 2 * MARGIN)
    x, y = (left + right - shown) / 2, (top + bottom - shown) / 2
    box = round(x * side, 3), round(y * side, 3), round(shown * side, 3)
    return Measure(box, (round(width / shown, 3), round(height / shown, 3)), dominant_colour(image), _tone(image))


def dominant_colour(image: Tensor) -> Lab | None:
    """The middle of the one cluster of hue that most of the ink has, or None: near-grey, or of many hues.

    image H W 4, uint8 -> OKLab
    """
    ink = image[image[..., 3] > 200][:, :3] / 255
    lab = to_oklab(ink)
    chroma = chroma_of(lab)[:, 0]
    if len(ink) == 0 or not bool((chroma > GREY_CHROMA).any()):
        return None
    angle = torch.arange(36) * (torch.pi / 18)
    hues = torch.stack([torch.zeros(36), angle.cos(), angle.sin()], 1) * 0.1
    weights = torch.stack([in_cluster(lab, hue).flatten() for hue in hues])  # 36 N
    weight = weights[int((weights * chroma).sum(1).argmax())]
    own = weight > 0.5
    share = float(own.float().mean())
    halfway = float(((weight - 0.5).abs() < 0.45)[chroma > GREY_CHROMA].sum()) / len(ink)  # would turn a mixed colour
    others = float(((chroma > 1.5 * GREY_CHROMA) & ~own).float().mean())
    if share < 0.4 or others > 0.5 * share or halfway > 0.15 * share or float(chroma[own].median()) < MIN_CHROMA:
        return None
    return _rounded(lab[own].median(0).values)


def _tone(image: Tensor) -> Lab:
    return _rounded(to_oklab(image[image[..., 3] > 200][:, :3] / 255).mean(0))


def _rounded(colour: Tensor) -> Lab:
    lightness, a, b = triple(colour)
    return round(lightness, 3), round(a, 3), round(b, 3)
