"""What of a picture is painted: masks, boxes and fills, and that the rest comes back to the bit."""

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marmo.pipelines.canvas import REACH, Canvas, Inputs, feathered, grown, inputs, painted_size
from marmo.pipelines.surroundings import surrounded
from marmo.request import Defaults, ImageRequest, Inpaint, Outpaint

DEFAULTS = Defaults(width=128, height=128)


def photo(width: int = 60, height: int = 44) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def marked(size: tuple[int, int], box: tuple[int, int, int, int], level: int = 255) -> Image.Image:
    """A mask with one bright box: left, top, right, bottom."""
    mask = Image.new("L", size)
    mask.paste(level, box)
    return mask


def png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def canvas(
    picture: Image.Image, mask: Image.Image | None, size: tuple[int, int] | None = None, **fields: object
) -> Canvas:
    """As the pipeline makes it, for 8 pixels per latent."""
    wanted = ImageRequest(init_image=png(picture), mask=None if mask is None else png(mask), seed=0, **fields)
    found = inputs(wanted)
    assert found is not None
    size = size or painted_size(wanted, found, 8)
    if size is not None:
        wanted = wanted.model_copy(update={"width": size[0], "height": size[1]})
    return Canvas.of(wanted.resolve(DEFAULTS), found, 8)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=int)


# The kept part


AREAS = st.sampled_from(["picture", "masked"])
SIDES = st.integers(0, 40)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    corner=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1)),
    sides=st.tuples(SIDES, SIDES, SIDES, SIDES),
    grow=st.integers(0, 9),
    feather=st.floats(0, 6),
    area=AREAS,
    padding=st.integers(0, 20),
    soft=st.booleans(),
    fill=st.sampled_from(["original", "blurred", "noise", "blank"]),
    shape=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_what_is_not_marked_comes_back_to_the_bit(size, corner, sides, grow, feather, area, padding, soft, fill, shape):
    """Whatever the sizes, the sides and the box are; and every marked pixel is new."""
    width, height = size
    left, top = int(corner[0] * width), int(corner[1] * height)
    right, bottom = left + 1 + int(corner[2] * (width - left - 1)), top + 1 + int(corner[3] * (height - top - 1))
    picture, mask = photo(width, height), marked(size, (left, top, right, bottom))
    made = {"grow": grow, "feather": feather, "area": area, "soft": soft, "fill": fill}
    made |= {"padding": padding} if area == "masked" else {}
    outpaint = Outpaint(**dict(zip(("left", "right", "top", "bottom"), sides, strict=True)))
    painted_at = None if shape is None else (8 * shape[0], 8 * shape[1])
    one = canvas(picture, mask, painted_at, inpaint=Inpaint(**made), outpaint=outpaint)
    assert one.seen.shape == (1, 3, one.size[1], one.size[0]) and one.seen.abs().max() <= 1
    green = Image.new("RGB", one.size, (1, 254, 3))
    result = pixels(one.paste(green))
    assert result.shape[:2] == (height + sides[2] + sides[3], width + sides[0] + sides[1])

    reach = grow + int(REACH * feather + 0.5)
    y, x = np.mgrid[:height, :width]
    is_far = (x < left - reach) | (x >= right + reach) | (y < top - reach) | (y >= bottom + reach)
    for side, distance in zip(sides, (x, width - 1 - x, y, height - 1 - y), strict=True):
        is_far &= (side == 0) | (distance >= reach)
    inside = result[sides[2] : sides[2] + height, sides[0] : sides[0] + width]
    assert np.array_equal(inside[is_far], pixels(picture)[is_far])
    if not soft:
        assert (inside[top:bottom, left:right] == (1, 254, 3)).all()
    assert float(one.free(*(side // 8 for side in one.size)).max()) > 0


def test_all_is_painted_under_a_white_mask():
    one = canvas(photo(), marked((60, 44), (0, 0, 60, 44)))
    green = Image.new("RGB", one.size, (1, 254, 3))
    assert set(one.paste(green).get_flattened_data()) == {(1, 254, 3)}
    assert bool((one.free(8, 6) == 1).all())


def test_the_feather_falls_from_new_to_old():
    """From the marked edge outward, in as many pixels as the kernel reaches; half of it lies inside the mark."""
    one = canvas(photo(120, 40), marked((120, 40), (0, 0, 60, 40)), inpaint=Inpaint(feather=4))
    row = pixels(one.overlay)[20]
    assert (row[:60] == 255).all() and (row[70:] == 0).all()
    falling = row[60:70]
    assert (np.diff(falling) < 0).all() and falling[0] > 200 and falling[-1] < 20


def test_a_feather_is_the_gaussian_that_opencv_cuts_there():
    """Against the sum itself, in numpy."""
    deviation, reach = 1.7, 4
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    one = torch.zeros(1, 1, 21, 21)
    one[0, 0, 10, 10] = 1
    wanted = np.zeros((21, 21))
    wanted[6:15, 6:15] = np.outer(weights, weights) / weights.sum() ** 2
    assert np.allclose(feathered(one, deviation)[0, 0].numpy(), wanted, atol=1e-7)
    assert torch.equal(feathered(one, 0), one)


def test_growing_goes_to_every_side():
    one = torch.zeros(1, 1, 11, 11)
    one[0, 0, 5, 4] = 1
    rows, columns = np.nonzero(grown(one, 3)[0, 0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 1, 7)
    assert torch.equal(grown(one, 0), one)


# What the networks see


def test_a_picture_is_widened_to_whole_latents_and_not_resampled():
    picture = photo(61, 45)
    one = canvas(picture, marked((61, 45), (3, 3, 9, 9)))
    assert one.size == (64, 48) and one.box == (0, 0, 64, 48)
    seen = ((one.seen[0].permute(1, 2, 0) + 1) * 127.5).round().int().numpy()
    assert np.array_equal(seen[:45, :61], pixels(picture))
    assert np.array_equal(seen[:45, 61:], np.repeat(pixels(picture)[:, -1:], 3, axis=1))


def test_one_marked_pixel_frees_one_latent():
    """And no more: its whole latent is painted, and only the pixel is shown."""
    one = canvas(photo(), marked((60, 44), (17, 9, 18, 10)), inpaint=Inpaint(feather=0))
    assert one.free(8, 6).nonzero().tolist() == [[0, 0, 1, 2]]
    changed = (pixels(one.paste(Image.new("RGB", one.size, (1, 254, 3)))) != pixels(photo())).any(axis=-1)
    assert np.argwhere(changed).tolist() == [[9, 17]]


def test_the_masked_part_is_enlarged_in_the_shape_of_the_size():
    one = canvas(photo(400, 300), marked((400, 300), (200, 100, 240, 120)), (128, 64),
                 inpaint=Inpaint(area="masked", padding=10, feather=0))  # fmt: skip
    assert one.box == (180, 90, 80, 40)
    assert one.free(16, 8).max() == 1


def test_a_box_at_the_edge_stays_on_the_canvas_where_it_can():
    one = canvas(photo(400, 300), marked((400, 300), (390, 290, 400, 300)), (128, 128),
                 inpaint=Inpaint(area="masked", padding=30, feather=0))  # fmt: skip
    assert one.box == (360, 260, 40, 40)
    wide = canvas(photo(400, 30), marked((400, 30), (100, 0, 200, 30)), (128, 128),
                  inpaint=Inpaint(area="masked", padding=0, feather=0))  # fmt: skip
    assert wide.box == (100, -35, 100, 100)


def test_sides_continue_the_edge():
    picture = photo()
    one = canvas(picture, None, outpaint=Outpaint(left=12, bottom=6), inpaint=Inpaint(fill="original"))
    assert one.picture.size == (72, 50)
    left = pixels(one.picture)[:44, :12]
    assert np.array_equal(left, np.repeat(pixels(picture)[:, :1], 12, axis=1))
    assert np.array_equal(pixels(one.picture)[:44, 12:], pixels(picture))


def test_the_black_part_is_painted_where_the_mask_is_inverted():
    mask = marked((60, 44), (0, 0, 60, 20))
    inverted = Image.eval(mask, lambda level: 255 - level)
    one, other = canvas(photo(), mask, inpaint=Inpaint(invert=True)), canvas(photo(), inverted)
    assert one.overlay.tobytes() == other.overlay.tobytes()


def test_soft_marks_are_the_greys_of_the_mask():
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (16, 1)))
    one = canvas(photo(64, 16), ramp, inpaint=Inpaint(soft=True, feather=0))
    assert torch.allclose(one.free(8, 2)[0, 0, 0], (torch.arange(8) * 8 + 7) * 4 / 255)
    hard = canvas(photo(64, 16), ramp, inpaint=Inpaint(feather=0))
    assert (hard.free(8, 2)[0, 0, 0] >= 0.5).tolist() == [False] * 4 + [True] * 4


# Surroundings


def test_surroundings_of_one_colour_are_that_colour():
    picture = torch.full((1, 3, 37, 53), 0.3)
    hole = torch.zeros(1, 1, 37, 53, dtype=torch.bool)
    hole[..., 5:30, 7:50] = True
    wild = torch.where(hole, torch.randn(1, 3, 37, 53), picture)
    assert torch.allclose(surrounded(wild, hole), picture, atol=1e-6)


def test_surroundings_run_from_one_colour_to_the_other():
    picture = torch.cat([torch.full((1, 1, 32, 40), -1.0), torch.full((1, 1, 32, 40), 1.0)], dim=3)
    hole = torch.zeros(1, 1, 32, 80, dtype=torch.bool)
    hole[..., 10:70] = True
    row = surrounded(picture, hole)[0, 0, 16]
    assert (row[1:] >= row[:-1] - 1e-4).all() and row[10] < -0.9 and row[69] > 0.9 and abs(row[39:41].mean()) < 0.1
    kept = ~hole.expand_as(picture)
    assert torch.equal(surrounded(picture, hole)[kept], picture[kept])


def test_nothing_but_a_hole_is_grey():
    assert surrounded(torch.ones(1, 3, 9, 5), torch.ones(1, 1, 9, 5, dtype=torch.bool)).abs().max() == 0


# Hostile input


def refused(words: str, picture: Image.Image, mask: Image.Image | bytes | None, **fields: object) -> None:
    data = png(mask) if isinstance(mask, Image.Image) else mask
    wanted = ImageRequest(**{"init_image": png(picture), "mask": data, "width": 64, "height": 48, "seed": 0, **fields})
    with pytest.raises(ValueError, match=words):
        found = inputs(wanted)
        assert found is not None
        Canvas.of(wanted.resolve(DEFAULTS), found, 8)


def test_masks_that_cannot_be():
    picture = photo()
    refused("mask is 59 x 44 pixels and init_image 60 x 44", picture, marked((59, 44), (0, 0, 9, 9)))
    refused("mask marks nothing", picture, Image.new("L", picture.size))
    refused("mask marks nothing", picture, Image.new("L", picture.size, 127))
    refused("mask marks nothing", picture, Image.new("L", picture.size, 255), inpaint=Inpaint(invert=True))
    refused("mask marks nothing", picture, Image.new("L", picture.size), inpaint=Inpaint(soft=True))
    refused("mask: transparency may mean either part", picture, Image.new("RGBA", picture.size, (255, 255, 255, 0)))
    refused("mask: this is no PNG, JPEG or WebP picture", picture, b"a mask")
    refused("cannot be painted at 8 x 8192", photo(8000, 1), marked((8000, 1), (0, 0, 8000, 1)), width=8, height=8192)


def test_a_picture_that_would_be_too_large():
    wanted = ImageRequest(init_image=png(photo()), outpaint=Outpaint(right=8150))
    found = inputs(wanted)
    assert found is not None
    with pytest.raises(ValueError, match="would be 8210 x 44 pixels; at most 8192"):
        painted_size(wanted, found, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_masks_in_every_kind_of_file(mode: str):
    """Opaque ones; the same part is marked in all of them."""
    grey = marked((60, 44), (10, 10, 30, 30))
    deep = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    mask = deep if mode == deep.mode else grey.convert(mode)
    found = inputs(ImageRequest(init_image=png(photo()), mask=png(mask)))
    assert isinstance(found, Inputs) and found.mask is not None
    assert found.mask.tobytes() == grey.tobytes()
