"""A picture that is changed in parts: what of it is painted, and how that comes back without touching the rest.

    the canvas    init_image and, beyond it, the pixels to outpaint
    the marks     the mask on it: grown, and with `soft` feathered too
    the overlay   how much of the new pixels is shown; 0 is the canvas to the bit
    the box       what the networks see of the canvas, resized to the request's width and height

Shapes: H W height and width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from marmo.files.pictures import MAX_PIXELS, decode_image, decode_mask
from marmo.pipelines.pixels import to_pictures, to_tensor
from marmo.pipelines.surroundings import surrounded
from marmo.request import MAX_SIDE, ImageRequest, Inpaint, Outpaint

REACH = 2.5
"""Standard deviations at which the feather ends, as in A1111."""
HALF = 0.5
"""From this brightness on a pixel of the mask is marked, unless its grey levels are shares of strength."""


class Box(NamedTuple):
    """A part of the canvas, in pixels; it may stand out beyond the canvas."""

    left: int
    top: int
    width: int
    height: int


class Inputs(NamedTuple):
    """The pictures inside a request, decoded."""

    picture: Image.Image
    mask: Image.Image | None


def inputs(request: ImageRequest) -> Inputs | None:
    """The picture that a request starts from and its mask; `ValueError`, naming the field, for what cannot be."""
    if request.init_image is None:
        return None
    picture = _decoded("init_image", decode_image, request.init_image)
    mask = None if request.mask is None else _decoded("mask", decode_mask, request.mask)
    if mask is not None and mask.size != picture.size:
        raise ValueError(
            f"mask is {mask.width} x {mask.height} pixels and init_image {picture.width} x {picture.height}; "
            "they must have the same size"
        )
    return Inputs(picture, mask)


def _decoded(name: str, decode: Callable[[bytes], Image.Image], data: bytes) -> Image.Image:
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def painted_size(request: ImageRequest, given: Inputs, factor: int) -> tuple[int, int] | None:
    """Width and height to paint at where the request leaves both open; none is the model's own.

    A picture that is changed as a whole is cut to what the model can paint, `factor` pixels per latent; one that keeps
    a part is widened to it, so that nothing is resampled.
    """
    if not request.is_partial:
        width, height = (max(side // factor, 1) * factor for side in given.picture.size)
        return width, height
    if request.inpaint.area == "masked":
        return None
    return _widened(canvas_size(request.outpaint, given.picture), factor)


def canvas_size(sides: Outpaint, picture: Image.Image) -> tuple[int, int]:
    """Width and height of the picture with what is added; `ValueError` where that is too large."""
    width, height = picture.width + sides.left + sides.right, picture.height + sides.top + sides.bottom
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"the picture would be {width} x {height} pixels; at most {MAX_SIDE} each are painted")
    return width, height


def _widened(size: tuple[int, int], factor: int) -> tuple[int, int]:
    width, height = (math.ceil(side / factor) * factor for side in size)
    return width, height


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture of which a part is painted, made by `Canvas.of`."""

    picture: Image.Image
    marks: Tensor
    """1 1 H W, 0 kept to 1 painted"""
    overlay: Image.Image
    box: Box
    size: tuple[int, int]
    """Width and height at which the box is painted"""
    settings: Inpaint

    @classmethod
    def of(cls, request: ImageRequest, given: Inputs, factor: int) -> Self:
        """Of a resolved request; `ValueError` for a mask that marks nothing."""
        settings, sides = request.inpaint, request.outpaint
        assert request.width is not None and request.height is not None, "the request is not resolved"
        canvas_size(sides, given.picture)
        drawn = grown(_extended_mask(given, settings, sides), settings.grow)
        blurred = feathered(drawn, settings.feather)
        marks = blurred if settings.soft else drawn
        if float(marks.max()) < (1 / 255 if settings.soft else HALF):
            raise ValueError("mask marks nothing: what shall be painted must be white in it")
        overlay = _levels(torch.maximum((marks >= HALF).float(), (2 * blurred).clamp(max=1)))
        size = request.width, request.height
        return cls(
            picture=_extended(given.picture, sides),
            marks=marks,
            overlay=overlay,
            box=_box(overlay, size, settings, factor),
            size=size,
            settings=settings,
        )

    @cached_property
    def seen(self) -> Tensor:
        """What is encoded: the box, its marked part filled as the request says.  1 3 H W in [-1, 1]."""
        whole = to_tensor(self.picture, *self.picture.size)
        if self.settings.fill == "blurred":
            whole = surrounded(whole, self.marks >= (1 if self.settings.soft else HALF))
        return to_tensor(self._cut(to_pictures(whole)[0]), *self.size)

    def free(self, width: int, height: int) -> Tensor:
        """The marks of the box, each the largest of the pixels that it stands for.  1 1 H W, 0 kept to 1 painted."""
        inside = F.pad(self.marks, self._margins())
        left, top = max(self.box.left, 0), max(self.box.top, 0)
        inside = inside[:, :, top : top + self.box.height, left : left + self.box.width]
        return F.adaptive_max_pool2d(inside, (height, width))

    def paste(self, painted: Image.Image) -> Image.Image:
        """The canvas with the painted box on it, as far as the overlay shows it."""
        if painted.size != (self.box.width, self.box.height):
            painted = painted.resize((self.box.width, self.box.height), Image.Resampling.LANCZOS)
        covered = self.picture.copy()
        covered.paste(painted, (self.box.left, self.box.top))
        return Image.composite(covered, self.picture, self.overlay)

    def _cut(self, picture: Image.Image) -> Image.Image:
        """The box out of a picture, whose edges go on beyond it."""
        rows = np.arange(self.box.top, self.box.top + self.box.height).clip(0, picture.height - 1)
        columns = np.arange(self.box.left, self.box.left + self.box.width).clip(0, picture.width - 1)
        return Image.fromarray(np.asarray(picture)[rows[:, None], columns])

    def _margins(self) -> tuple[int, int, int, int]:
        """Pixels of the box beyond the canvas: left, right, top, bottom."""
        box, (width, height) = self.box, self.picture.size
        right, bottom = box.left + box.width - width, box.top + box.height - height
        return max(-box.left, 0), max(right, 0), max(-box.top, 0), max(bottom, 0)


def grown(mask: Tensor, pixels: int) -> Tensor:
    """The mask, larger by some pixels to every side.  1 1 H W."""
    across = F.max_pool2d(mask, (1, 2 * pixels + 1), stride=1, padding=(0, pixels))
    return F.max_pool2d(across, (2 * pixels + 1, 1), stride=1, padding=(pixels, 0))


def feathered(mask: Tensor, deviation: float) -> Tensor:
    """The mask, blurred by a Gaussian that ends at `REACH` deviations.  1 1 H W."""
    reach = int(REACH * deviation + 0.5)
    if not reach:
        return mask
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    across = F.conv2d(F.pad(mask, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))


def _extended_mask(given: Inputs, settings: Inpaint, sides: Outpaint) -> Tensor:
    """The mask on the canvas, where all that is added is white.  1 1 H W in [0, 1]."""
    mask = given.mask
    if mask is None:
        grey = torch.zeros(given.picture.height, given.picture.width)
    else:
        grey = torch.tensor(np.asarray(mask)).float() / 255
    grey = 1 - grey if settings.invert else grey
    return F.pad(rearrange(grey, "h w -> 1 1 h w"), (sides.left, sides.right, sides.top, sides.bottom), value=1)


def _extended(picture: Image.Image, sides: Outpaint) -> Image.Image:
    """The picture, whose edges go on over what is added."""
    pixels = np.pad(np.asarray(picture), ((sides.top, sides.bottom), (sides.left, sides.right), (0, 0)), mode="edge")
    return Image.fromarray(pixels)


def _levels(shares: Tensor) -> Image.Image:
    """1 1 H W in [0, 1] -> a grey picture."""
    return Image.fromarray((shares[0, 0] * 255).round().byte().numpy())


def _box(overlay: Image.Image, size: tuple[int, int], settings: Inpaint, factor: int) -> Box:
    """The part that is seen: all, or what changes and its surroundings; of the shape at which it is painted."""
    if settings.area == "picture":
        if size == _widened(overlay.size, factor):
            return Box(0, 0, *size)
        return _shaped((0, 0, *overlay.size), size, overlay.size)
    changes = overlay.getbbox()
    assert changes is not None, "the overlay shows what is marked"
    left, top = (max(side - settings.padding, 0) for side in changes[:2])
    right, bottom = (min(side + settings.padding, end) for side, end in zip(changes[2:], overlay.size, strict=True))
    return _shaped((left, top, right, bottom), size, overlay.size)


def _shaped(part: tuple[int, int, int, int], size: tuple[int, int], canvas: tuple[int, int]) -> Box:
    """The least box of the shape of `size` around a part, on the canvas where it has room."""
    left, top, right, bottom = part
    scale = max((right - left) / size[0], (bottom - top) / size[1])
    width, height = (max(round(side * scale), 1) for side in size)
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{right - left} x {bottom - top} pixels cannot be painted at {size[0]} x {size[1]}; choose a width and a "
            "height of their shape"
        )
    return Box(_placed(left, right, width, canvas[0]), _placed(top, bottom, height, canvas[1]), width, height)


def _placed(start: int, end: int, length: int, room: int) -> int:
    """Where a length around a middle begins; beyond the room only if it does not fit in."""
    if length > room:
        return (room - length) // 2
    return min(max((start + end - length) // 2, 0), room - length)
