"""The drawings of a report: intervals on a scale, bars, small pictures as data URIs, boxes over them.

Everything is text that stands in the page; colours are the page's, by class.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

from PIL import Image

from marmo.data.corpus import corpus
from marmo.evaluate.found import Found
from marmo.evaluate.statistics import Estimate

SIDE = 192
"""Of the pictures in a page, at most, in pixels."""
WIDTH, ROW = 240, 9
"""Of a scale, and the height of one interval on it."""
SHOWN = 0.3
"""Confidence above which a box is drawn; GenEval's."""


def scale(
    estimates: Mapping[str, Estimate], marks: Mapping[str, float] | None = None, ends: tuple[float, float] = (0, 1)
) -> str:
    """Intervals below one another on a line from one end to the other.

    Args:
        estimates: by class, such as `en` and `zh`.
        marks: single values, by class, such as `ceiling` and `floor`.
    """
    height = ROW * len(estimates) + 5
    parts = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{height - 2}" y2="{height - 2}"/>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        kind = "tick zero" if ends[0] + share * (ends[1] - ends[0]) == 0 and ends[0] < 0 else "tick"
        parts.append(f'<line class="{kind}" x1="{share * WIDTH:g}" x2="{share * WIDTH:g}" y1="0" y2="{height - 2}"/>')
    for name, value in (marks or {}).items():
        x = _x(value, ends)
        parts.append(f'<line class="{name}" x1="{x}" x2="{x}" y1="0" y2="{height - 2}"/>')
    for row, (name, estimate) in enumerate(estimates.items()):
        parts.append(_interval(name, estimate, row * ROW + ROW / 2, ends))
    return _svg("scale", WIDTH, height, parts)


def bar(counts: Mapping[str, int], total: int) -> str:
    """Counts side by side, by class; what is left of `total` stays empty."""
    parts, x = [f'<rect class="rest" width="{WIDTH}" height="12" rx="3"/>'], 0.0
    for name, count in counts.items():
        width = WIDTH * count / total
        parts.append(f'<rect class="{name}" x="{x:.1f}" width="{width:.1f}" height="12"/>')
        x += width
    return _svg("bar", WIDTH, 12, parts)


def data_uri(picture: Image.Image, side: int = SIDE) -> str:
    """A picture as WebP inside an address, its longer side at most `side`."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, "WEBP", quality=82, method=6)
    return f"data:image/webp;base64,{b64encode(stream.getvalue()).decode()}"


def boxes(found: Sequence[Found], size: tuple[int, int]) -> str:
    """What an oracle saw, to be laid over a picture of this width and height."""
    height = 100 * size[1] / size[0]
    parts = list[str]()
    for number, thing in enumerate(seen(found)):
        left, top, right, bottom = thing.box
        place = f'x="{100 * left:.1f}" y="{height * top:.1f}"'
        parts.append(f'<rect class="thing t{number % 4}" {place} {_sides(right - left, bottom - top, height)}/>')
    return _svg("boxes", 100, round(height, 2), parts)


def seen(found: Sequence[Found]) -> list[Found]:
    """What is told of a picture: the most confident things first."""
    return sorted((thing for thing in found if thing.confidence > SHOWN), key=lambda thing: -thing.confidence)


def called(thing: Found) -> str:
    """What was seen, in words."""
    return " ".join(filter(None, (thing.colour, corpus()[thing.concept].en[0])))


def _interval(name: str, estimate: Estimate, y: float, ends: tuple[float, float]) -> str:
    low, value, high = (_x(number, ends) for number in (estimate.low, estimate.value, estimate.high))
    line = f'<line class="whisker {name}" x1="{low}" x2="{high}" y1="{y:g}" y2="{y:g}"/>'
    return f'{line}<circle class="dot {name}" cx="{value}" cy="{y:g}" r="3.2"/>'


def _x(value: float, ends: tuple[float, float]) -> str:
    share = (value - ends[0]) / (ends[1] - ends[0])
    return f"{WIDTH * min(max(share, 0), 1):.1f}"


def _sides(width: float, height: float, aspect: float) -> str:
    return f'width="{max(0.0, 100 * width):.1f}" height="{max(0.0, aspect * height):.1f}"'


def _svg(kind: str, width: float, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return f'<svg class="{escape(kind)}" {box} aria-hidden="true">{"".join(parts)}</svg>'
