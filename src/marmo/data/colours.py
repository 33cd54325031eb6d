"""Eleven colours with their names, and the recolouring of drawings in OKLab.

A drawing has one dominant cluster of hue, known from the assets.  Recolouring moves that cluster, and nothing else, to
a target: its chroma plane is turned and scaled, its lightness is bent so that the cluster's middle lands on the
target's.  Hues are compared by the cosine between chroma vectors, so red has no seam.

OKLab is B. Ottosson, "A perceptual color space for image processing" (2020).  Shapes: any leading axes, 3 last.
"""

from dataclasses import dataclass
from math import dist

import torch
from torch import Tensor

Lab = tuple[float, float, float]
"""A colour in OKLab, as plain numbers."""


@dataclass(frozen=True)
class Colour:
    """A colour that captions name: GenEval's ten and grey."""

    en: str
    zh: str
    """As it stands before 的 or before a noun."""
    rgb: tuple[int, int, int]


COLOURS: dict[str, Colour] = {
    "red": Colour("red", "红色", (222, 45, 48)),
    "orange": Colour("orange", "橙色", (247, 137, 30)),
    "yellow": Colour("yellow", "黄色", (250, 211, 48)),
    "green": Colour("green", "绿色", (56, 161, 75)),
    "blue": Colour("blue", "蓝色", (45, 104, 218)),
    "purple": Colour("purple", "紫色", (132, 62, 186)),
    "pink": Colour("pink", "粉色", (250, 145, 190)),
    "brown": Colour("brown", "棕色", (133, 82, 45)),
    "black": Colour("black", "黑色", (38, 38, 42)),
    "white": Colour("white", "白色", (246, 246, 244)),
    "grey": Colour("grey", "灰色", (140, 142, 147)),
}

# sRGB (linear) to the cones' answers, and their cube roots to L a b.
_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)

SAME = 0.1
"""Colours nearer to one another in OKLab have one name."""

GREY_CHROMA = 0.045
"""Less chroma than this has no hue that an eye would name."""


def to_oklab(rgb: Tensor) -> Tensor:
    """... 3, sRGB in [0, 1] -> lightness and the two axes of chroma."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).pow(2.4))
    return (linear @ rgb.new_tensor(_TO_LMS).T).pow(1 / 3) @ rgb.new_tensor(_TO_LAB).T


def to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `to_oklab`, clipped to [0, 1]."""
    lms = (lab @ torch.inverse(lab.new_tensor(_TO_LAB)).T).pow(3)
    linear = (lms @ torch.inverse(lab.new_tensor(_TO_LMS)).T).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-8).pow(1 / 2.4) - 0.055)


def targets() -> Tensor:
    """The eleven colours in OKLab, in the order of `COLOURS`.  11 3"""
    return to_oklab(torch.tensor([colour.rgb for colour in COLOURS.values()]) / 255)


def triple(colour: Tensor) -> Lab:
    """3 -> three numbers."""
    return float(colour[0]), float(colour[1]), float(colour[2])


def name_of(colour: Lab) -> str | None:
    """The one of the eleven that a colour is, if it is one of them."""
    apart = {name: dist(colour, triple(goal)) for name, goal in zip(COLOURS, targets(), strict=True)}
    nearest = min(apart, key=lambda name: apart[name])
    return nearest if apart[nearest] < SAME else None


def chroma_of(lab: Tensor) -> Tensor:
    """How far from grey.  ... 3 -> ... 1"""
    return lab[..., 1:].square().sum(-1, keepdim=True).sqrt()


def in_cluster(lab: Tensor, centre: Tensor) -> Tensor:
    """How much each pixel belongs to the hue of `centre`, 0 to 1.  lab ... 3, centre broadcast to it -> ... 1"""
    chroma = chroma_of(lab)
    cosine = (lab[..., 1:] * centre[..., 1:]).sum(-1, keepdim=True) / (chroma * chroma_of(centre)).clamp(min=1e-6)
    is_near = _ramp(cosine, 0.60, 0.80)  # within 53 degrees at all, within 37 wholly
    return is_near * _ramp(chroma, 0.3 * GREY_CHROMA, GREY_CHROMA)


def recolour(rgb: Tensor, centre: Tensor, target: Tensor) -> Tensor:
    """Moves the cluster around `centre` to `target`; both are OKLab.  rgb B N 3, centre and target B 3 -> B N 3"""
    lab, centre, target = to_oklab(rgb), centre[:, None], target[:, None]
    weight = in_cluster(lab, centre)
    moved = torch.cat([_bend(lab[..., :1], centre[..., :1], target[..., :1]), _turn(lab, centre, target)], -1)
    return torch.lerp(rgb, to_rgb(moved), weight)


def _bend(lightness: Tensor, centre: Tensor, target: Tensor) -> Tensor:
    """Two straight lines through black, the middle and white: shadows stay darker and highlights lighter."""
    below = lightness * target / centre
    above = 1 - (1 - lightness) * (1 - target) / (1 - centre)
    return torch.where(lightness < centre, below, above)


def _turn(lab: Tensor, centre: Tensor, target: Tensor) -> Tensor:
    """Chroma as a complex number times target / centre."""
    a, b = (
        (centre[..., 1:] * target[..., 1:]).sum(-1),
        centre[..., 1] * target[..., 2] - centre[..., 2] * target[..., 1],
    )
    size = centre[..., 1:].square().sum(-1)
    cos, sin = a / size, b / size
    x, y = lab[..., 1], lab[..., 2]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)
