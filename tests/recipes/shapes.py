"""Drawn shapes and what they are called: 24 captions, endless drawings, a function of the position."""

import random

from PIL import Image, ImageDraw

from marmo.data.pictures import as_tensor
from marmo.data.source import Pair

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
RADII = {"small": 5, "large": 11}
CAPTIONS = [
    f"a {size} {colour} {shape}" for size in RADII for colour in COLOURS for shape in ("circle", "square", "triangle")
]


def shape(position: int) -> Pair:
    """32 pixels a side."""
    chance = random.Random(position)
    caption = chance.choice(CAPTIONS)
    _, size, colour, kind = caption.split()
    radius = RADII[size]
    x, y = chance.randint(radius, 32 - radius), chance.randint(radius, 32 - radius)
    picture = Image.new("RGB", (32, 32), "white")
    draw, box = ImageDraw.Draw(picture), (x - radius, y - radius, x + radius, y + radius)
    match kind:
        case "circle":
            draw.ellipse(box, fill=COLOURS[colour])
        case "square":
            draw.rectangle(box, fill=COLOURS[colour])
        case _:
            draw.polygon([(x, y - radius), (box[0], box[3]), (box[2], box[3])], fill=COLOURS[colour])
    return as_tensor(picture, (32, 32)), caption
