"""Eight shapes, each solid, outlined or striped: drawn here, so that colour and form are exactly what the caption says.

Black ink takes the colour of the scene, white stays white; see `compose`.
"""

from dataclasses import dataclass
from typing import Literal

Fill = Literal["solid", "outline", "striped"]
FILLS: tuple[Fill, ...] = ("solid", "outline", "striped")


@dataclass(frozen=True)
class Shape:
    """A form on a plane of 100 x 100, which reaches from 2 to 98 and is centred."""

    en: str
    zh: str
    path: str


SHAPES: dict[str, Shape] = {
    "circle": Shape("circle", "圆形", "M98 50A48 48 0 1 1 2 50A48 48 0 1 1 98 50Z"),
    "square": Shape("square", "正方形", "M2 2H98V98H2Z"),
    "triangle": Shape("triangle", "三角形", "M50 8L98 91H2Z"),
    "star": Shape(
        "star", "五角星", "M50 4.4L61.9 38.5L98 39.2L69.2 61.1L79.7 95.7L50 75L20.3 95.7L30.8 61.1L2 39.2L38.1 38.5Z"
    ),
    "heart": Shape("heart", "心形", "M50 94C18 68 2 52 2 31A26 26 0 0 1 50 20A26 26 0 0 1 98 31C98 52 82 68 50 94Z"),
    "hexagon": Shape("hexagon", "六边形", "M26 8H74L98 50L74 92H26L2 50Z"),
    "ring": Shape(
        "ring", "圆环", "M98 50A48 48 0 1 1 2 50A48 48 0 1 1 98 50ZM73 50A23 23 0 1 0 27 50A23 23 0 1 0 73 50Z"
    ),
    "moon": Shape("moon", "月牙形", "M69 5A48 48 0 1 0 95 73A40 40 0 0 1 69 5Z"),
}


def svg(shape: Shape, fill: Fill) -> str:
    """The body of a drawing on the plane of 100 x 100."""
    form = f'<path id="p" fill-rule="evenodd" stroke-linejoin="round" d="{shape.path}"'
    clip = f'<clipPath id="c"><path clip-rule="evenodd" d="{shape.path}"/></clipPath>'
    line = '<g clip-path="url(#c)">' + form + ' fill="none" stroke="#000" stroke-width="18"/></g>'
    match fill:
        case "solid":
            return form + ' fill="#000"/>'
        case "outline":
            return clip + line
        case "striped":
            bars = "".join(f'<path d="M{x} -5L{x + 45} 105H{x + 54}L{x + 9} -5Z"/>' for x in range(-60, 120, 18))
            white = form + ' fill="#fff"/>'
            return clip + white + f'<g clip-path="url(#c)">{bars}</g>' + line.replace('width="18"', 'width="9"')
