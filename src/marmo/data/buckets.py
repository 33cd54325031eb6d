"""Sizes of about the same area and different shapes, so that pictures train without being cut square.

The rules of kohya's sd-scripts, which people's data sets are prepared for:

    sizes = bucket_sizes(512 * 512)
    bucketed(items, survey(items), lambda size: bucket_of(size, sizes), ...)
    bucketed(items, survey(items), lambda size: own_bucket(size, 512 * 512), ...)        # "no upscale"
"""

from collections.abc import Sequence
from math import isqrt, sqrt

Size = tuple[int, int]
"""Width and height in pixels."""


def bucket_sizes(area: int, step: int = 64, smallest: int = 256, largest: int = 1024) -> list[Size]:
    """All sizes with both sides multiples of `step` between the limits, the longest that `area` has room for."""
    if step < 1 or not step <= smallest <= largest or area < smallest * smallest:
        raise ValueError(
            f"no bucket has sides of {smallest} to {largest} pixels, multiples of {step}, and at most {area} pixels"
        )
    square = isqrt(area) // step * step
    sizes = {(square, square)}
    for width in range(smallest, largest + 1, step):
        height = min(largest, area // width // step * step)
        if height >= smallest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def bucket_of(size: Size, sizes: Sequence[Size]) -> Size:
    """The bucket for a picture: its own size if that is one, else the nearest ratio of width to height."""
    if size in sizes:
        return size
    ratio = size[0] / size[1]
    return min(sizes, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))


def own_bucket(size: Size, area: int, step: int = 64) -> Size:
    """The bucket for a picture that shall not grow: its own size, or that with `area`, rounded down to the step."""
    scale = min(1.0, sqrt(area / (size[0] * size[1])))
    width, height = (max(step, int(side * scale + 1e-9) // step * step) for side in size)
    return width, height
