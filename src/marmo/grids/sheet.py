"""A grid as one picture: the cells in rows and columns, labelled above and on the left.

Shapes: cells of any sizes; each column is as wide as its widest picture, each row as high as its highest.
"""

import textwrap
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MAX_SIDE = 16_384  # pixels; above it the pictures are made smaller
MAX_PIXELS = 100_000_000
GAP = 8
LINES = 4
"""Of a label."""

# Pillow's own font has Latin letters alone; for others, fonts that systems come with.
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "simsun.ttc",
    "DejaVuSans.ttf",
)


def sheet(pictures: Sequence[Sequence[Path]], columns: Sequence[str], rows: Sequence[str]) -> Image.Image:
    """The labelled sheet.

    Args:
        pictures: the files, row by row.
        columns, rows: labels, each empty where there is no such axis.
    """
    sizes = [[_size(path) for path in row] for row in pictures]
    widths = [max(row[column][0] for row in sizes) for column in range(len(sizes[0]))]
    heights = [max(height for _, height in row) for row in sizes]
    scale = _scale(sum(widths), sum(heights))
    widths, heights = ([max(round(side * scale), 1) for side in sides] for sides in (widths, heights))
    size = max(12, min(28, min(widths) // 14))
    font = _font(size, "".join((*columns, *rows)))
    left = max((_extent(label, font, 18)[0] for label in rows if label), default=0)
    top = max(
        (_extent(label, font, _fit(width, size))[1] for label, width in zip(columns, widths, strict=True) if label),
        default=0,
    )
    xs = list(accumulate(widths, lambda x, width: x + width + GAP, initial=left + 2 * GAP if left else GAP))
    ys = list(accumulate(heights, lambda y, height: y + height + GAP, initial=top + 2 * GAP if top else GAP))
    canvas = Image.new("RGB", (xs[-1], ys[-1]), "white")
    pen = ImageDraw.Draw(canvas)
    for label, x, width in zip(columns, xs, widths, strict=False):
        text = _wrapped(label, _fit(width, size))
        pen.multiline_text((x + width / 2, GAP + top), text, "black", font, anchor="md", align="center")
    for label, y, height in zip(rows, ys, heights, strict=False):
        text = _wrapped(label, 18)
        pen.multiline_text((GAP, y + height / 2), text, "black", font, anchor="lm", align="left")
    for row, y in zip(pictures, ys, strict=False):
        for path, x in zip(row, xs, strict=False):
            with Image.open(path) as picture:
                canvas.paste(_scaled(picture.convert("RGB"), scale), (x, y))
    return canvas


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def _scale(width: int, height: int) -> float:
    """So that the sheet can be opened everywhere."""
    return min(1.0, MAX_SIDE / width, MAX_SIDE / height, (MAX_PIXELS / (width * height)) ** 0.5)


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return picture
    width, height = (max(round(side * scale), 1) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _fit(width: int, size: int) -> int:
    """How many letters of a font go into a width."""
    return max(int(width / (size * 0.6)), 6)


def _wrapped(label: str, letters: int) -> str:
    return "\n".join(textwrap.wrap(label, letters, max_lines=LINES, placeholder="…"))


def _extent(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letters: int) -> tuple[int, int]:
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    box = pen.multiline_textbbox((0, 0), _wrapped(label, letters), font)
    return round(box[2]), round(box[3])


def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or one of the system's that has other letters than Latin ones."""
    if text.isascii():
        return ImageFont.load_default(size)
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
