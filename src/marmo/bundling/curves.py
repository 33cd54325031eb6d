"""A run's numbers over the pictures it has seen, as an SVG for its model card: a logarithmic scale, a line a number."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 14, 34
COLOURS = ("#1f6feb", "#d1553a", "#2f8f4e", "#8a5fc7", "#b58900", "#3a9fa6")
MAX_POINTS = 300
"""Of a line: more cannot be told apart."""

Points = Sequence[tuple[float, float]]


def svg(lines: Mapping[str, Points], title: str) -> str:
    """A drawing of all lines that have two points above 0 or more.

    Raises `ValueError` where none has.
    """
    drawn = {name: _thinned([point for point in points if point[1] > 0]) for name, points in lines.items()}
    drawn = {name: points for name, points in drawn.items() if len(points) > 1}
    if not drawn:
        raise ValueError(f"{title}: there is no curve to draw")
    right = max(x for points in drawn.values() for x, _ in points)
    low, high = _decades([y for points in drawn.values() for _, y in points])
    parts = [*_grid(low, high, right), *_lines(drawn, low, high, right)]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11">'
    paper = f'<title>{escape(title)}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    return "\n".join([head, paper, *parts, "</svg>", ""])


def _thinned(points: Points) -> Points:
    """Evenly chosen points, the last one among them."""
    step = max(1, math.ceil(len(points) / MAX_POINTS))
    return points[::-1][::step][::-1]


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the scale, with 1, 2 or 5 as their first digits."""
    marks = [digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5)]
    low = max((mark for mark in marks if mark <= min(values)), default=marks[0])
    high = min((mark for mark in marks if mark >= max(values) and mark > low), default=marks[-1])
    return low, high


def _grid(low: float, high: float, right: float) -> list[str]:
    marks = [digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5)]
    parts = list[str]()
    for mark in (mark for mark in marks if low <= mark <= high):
        y = _y(mark, low, high)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{mark:g}</text>')
    for quarter in range(5):
        images = right * quarter / 4
        x, label = _x(images, right), _count(images)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle" fill="#555">{label}</text>')
    return parts


def _lines(lines: Mapping[str, Points], low: float, high: float, right: float) -> list[str]:
    parts = list[str]()
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(x, right):.1f},{_y(y, low, high):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        y = TOP + 10 + 16 * number
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{y}" fill="{colour}">{escape(name)} {points[-1][1]:.3g}</text>'
        )
    return parts


def _x(images: float, right: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * images / max(right, 1)


def _y(value: float, low: float, high: float) -> float:
    share = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _count(images: float) -> str:
    """1200000 -> 1.2 M"""
    for size, word in ((1e6, " M"), (1e3, " k")):
        if images >= size:
            return f"{images / size:.3g}{word}"
    return f"{images:.0f}"
