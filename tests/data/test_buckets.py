import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.data.buckets import bucket_of, bucket_sizes, own_bucket


def rule(area: int, step: int, smallest: int, largest: int) -> set[tuple[int, int]]:
    """kohya's rule, said as a condition on every candidate instead of a walk."""
    sides = [side for side in range(smallest, largest + 1) if (side - smallest) % step == 0]
    found = {(math.floor(math.sqrt(area) / step) * step,) * 2}
    for width in sides:
        heights = [height for height in range(step, largest + 1, step) if width * height <= area]
        if heights and heights[-1] >= smallest:
            found |= {(width, heights[-1]), (heights[-1], width)}
    return found


@pytest.mark.parametrize(
    "area, step, smallest, largest",
    [(512 * 512, 64, 256, 1024), (768 * 512, 64, 256, 1024), (1024 * 1024, 64, 512, 2048), (128 * 128, 16, 64, 256),
     (512 * 512, 8, 256, 768)],
)  # fmt: skip
def test_sizes(area, step, smallest, largest):
    found = bucket_sizes(area, step, smallest, largest)
    assert set(found) == rule(area, step, smallest, largest) and len(found) == len(set(found))


def test_the_usual_sizes():
    tall = [(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)]
    assert bucket_sizes(512 * 512) == [*tall, (512, 512), *sorted((height, width) for width, height in tall)]


@pytest.mark.parametrize("options", [(100 * 100,), (512 * 512, 0), (512 * 512, 64, 512, 256)])
def test_impossible(options):
    with pytest.raises(ValueError, match="no bucket has sides"):
        bucket_sizes(*options)


def test_an_exact_size_wins_and_else_the_nearest_ratio():
    sizes = bucket_sizes(512 * 512)
    assert bucket_of((384, 640), sizes) == (384, 640)
    assert bucket_of((3000, 3000), sizes) == (512, 512)
    assert bucket_of((10_000, 100), sizes) == (1024, 256)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_no_bucket_is_nearer(width, height):
    sizes = bucket_sizes(512 * 512)
    chosen = bucket_of((width, height), sizes)
    assert chosen in sizes
    if (width, height) not in sizes:
        best = min(abs(w / h - width / height) for w, h in sizes)
        assert abs(chosen[0] / chosen[1] - width / height) == best


@given(st.integers(64, 5000), st.integers(64, 5000))
def test_without_growing(width, height):
    w, h = own_bucket((width, height), 512 * 512)
    assert w % 64 == h % 64 == 0 and (w <= width and h <= height)
    assert w * h <= 512 * 512 or 64 in (w, h)
    if width * height <= 512 * 512:
        assert (w, h) == (width // 64 * 64, height // 64 * 64)
