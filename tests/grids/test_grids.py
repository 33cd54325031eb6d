"""Axes in A1111's notation, cells, the sheet and the page."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marmo.files.pictures import save_picture
from marmo.files.record import Record
from marmo.grids.axes import Axis, read_axis
from marmo.grids.cells import ONE, Cell, Folder, cells, missing
from marmo.grids.page import page
from marmo.grids.sheet import MAX_SIDE, sheet
from marmo.request import ImageRequest


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("steps=10, 20,30", "steps", "10 20 30"),
        ("steps=1-4", "steps", "1 2 3 4"),
        ("steps=1-10 (+2)", "steps", "1 3 5 7 9"),
        ("steps=10-1 (-3)", "steps", "10 7 4 1"),
        ("steps=4-1", "steps", "4 3 2 1"),
        ("steps=1-10 [5]", "steps", "1 3 5 7 10"),
        ("steps=3-9 [1]", "steps", "3"),
        ("steps=1-3, 20", "steps", "1 2 3 20"),
        ("guidance-scale=1-10 [5]", "guidance_scale", "1 3.25 5.5 7.75 10"),
        ("CFG Scale=1-2 (+0.25)", "guidance_scale", "1 1.25 1.5 1.75 2"),
        ("eta=0-1 (+.5)", "eta", "0-1 (+.5)"),  # A1111 does not read it either; the field says what is wrong
        ("eta=0-0.3 (+0.1)", "eta", "0 0.1 0.2 0.3"),
        ("guidance.rescale=0, 0.5", "guidance.rescale", "0 0.5"),
        ("sampler=euler, DDIM", "sampler", "euler DDIM"),
        ("seed=1,2", "seed", "1 2"),
        ("checkpoint=1-5.safetensors", "model", "1-5.safetensors"),
    ],
)
def test_axes(text: str, field: str, values: str):
    axis = read_axis(text)
    expected = [values] if "(+.5)" in values else values.split()
    assert (axis.field, list(axis.values), axis.search) == (field, expected, None)


def test_search_and_replace():
    axis = read_axis('prompt=S/R a fox, "a cat, sleeping", an owl')
    assert axis == Axis("prompt", ("a fox", "a cat, sleeping", "an owl"), search="a fox")
    assert axis.put({"prompt": "a fox in snow"}, "an owl") == {"prompt": "an owl in snow"}
    assert read_axis('prompt="a, b", c').values == ("a, b", "c")
    with pytest.raises(ValueError, match="the prompt holds no 'a fox' that S/R could replace"):
        axis.put({"prompt": "a wolf"}, "an owl")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps", "an axis is a field, = and values"),
        ("steps=", "an axis is a field, = and values"),
        ("steps= , ", "no values"),
        ("step=1", "did you mean steps"),
        ("num_images=1,2", "is no axis"),
        ("init_image=a.png", "is no axis"),
        ("guidance=1", "say guidance.rescale"),
        ("guidance.scale=1", "guidance has no field 'scale'"),
        ("steps.x=1", "steps.x is no axis"),
        ("steps=1-9 (-1)", "never gets from 1 to 9"),
        ("steps=1-9 (0)", "never gets"),
        ("steps=1-9 [0]", "asks for 0 values"),
        ("steps=1-9999", "at most 1000"),
        ("seed=0-99999999999999999999", "at most 1000"),
    ],
)
def test_what_is_no_axis(text: str, reason: str):
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_axis(text)


def test_cells():
    grid = list(cells({"prompt": "a fox", "seed": 1}, read_axis("steps=1,2,3"), read_axis("prompt=S/R fox, cat")))
    assert [(cell.column, cell.row) for cell in grid] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert [(cell.request.steps, cell.request.prompt) for cell in grid[2:4]] == [(3, "a fox"), (1, "a cat")]
    assert len(list(cells({"prompt": "x"}, read_axis("steps=1,2"), ONE))) == 2
    nested = next(cells({"guidance": {"low_sigma": 0.1}}, read_axis("guidance.rescale=0.5"), ONE)).request
    assert (nested.guidance.low_sigma, nested.guidance.rescale) == (0.1, 0.5)
    with pytest.raises(ValueError, match="the cell of steps 0 and seed 1: steps: must be greater"):
        list(cells({}, read_axis("steps=0"), read_axis("seed=1")))
    with pytest.raises(ValueError, match="both axes of the grid are steps"):
        list(cells({}, read_axis("steps=1"), read_axis("steps=2")))
    with pytest.raises(ValueError, match="at most 10000"):
        list(cells({}, read_axis("steps=1-1000"), read_axis("seed=1-11")))


def painted(path: Path, colour: str, size: tuple[int, int] = (64, 48), prompt: str = "a fox") -> Path:
    record = Record(
        marmo="0", torch="0", request=ImageRequest(prompt=prompt, seed=3), image=0, weights={"m": "0" * 64},
        dtype="float32", device="cpu", sigmas=(1.0, 0.0),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, Image.new("RGB", size, colour), record)
    return path


def test_only_what_is_missing(tmp_path: Path):
    folder = Folder(tmp_path)
    grid = list(cells({"seed": 1}, read_axis("steps=1,2,2"), ONE))

    def place(cell: Cell) -> Path:
        return folder.place(cell.request, "weights")

    assert [cell.column for cell in missing(grid, place)] == [0, 1]  # the third is the second
    painted(place(grid[0]), "red")
    assert [cell.column for cell in missing(grid, place)] == [1]
    place(grid[1]).write_bytes(place(grid[0]).read_bytes()[:500])
    assert [cell.column for cell in missing(grid, place)] == [1]  # torn files do not count
    assert folder.place(grid[0].request, "other weights") != place(grid[0])
    assert folder.place(grid[0].request.model_copy(update={"model": "elsewhere"}), "weights") == place(grid[0])


def test_a_grid_keeps_its_seed(tmp_path: Path):
    seed = Folder(tmp_path / "a").seed()
    assert Folder(tmp_path / "a").seed() == seed != Folder(tmp_path / "b").seed()
    for text in ("{", "[]", '{"seed": "x"}', "{}"):
        (tmp_path / "a" / "grid.json").write_text(text)
        with pytest.raises(ValueError, match="is not the file of a grid"):
            Folder(tmp_path / "a").seed()


def test_the_sheet_shows_every_cell_in_its_place(tmp_path: Path):
    colours = [["red", "lime"], ["blue", "yellow"]]
    files = [[painted(tmp_path / f"{colour}.png", colour) for colour in row] for row in colours]
    whole = sheet(files, ["steps 1", "steps 2"], ["fox", "a very long label that must be wrapped somewhere"])
    pixels = np.asarray(whole)
    found: list[tuple[float, float]] = []
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)):
        ys, xs = np.nonzero((pixels == colour).all(axis=2))
        assert len(xs) == 64 * 48
        found.append((xs.mean(), ys.mean()))
    red, lime, blue, yellow = found
    assert red[0] < lime[0] and blue[0] < yellow[0] and red[1] < blue[1] and lime[1] < yellow[1]
    assert red[0] > 40  # the labels have room


def test_a_sheet_that_would_be_too_large_is_made_smaller(tmp_path: Path):
    wide = painted(tmp_path / "wide.png", "red", (6000, 8))
    whole = sheet([[wide] * 4], [f"{index}" for index in range(4)], [""])
    assert whole.width <= MAX_SIDE + 200


def test_the_page_needs_nothing_else_and_believes_nobody(tmp_path: Path):
    evil = '<script>alert(1)</script>"onload="x'
    file = painted(tmp_path / "a.png", "red", prompt=evil)
    html = page(evil, [[file]], [evil], ["<b>"])
    assert "<script" not in html and 'onload="x' not in html and "&lt;script&gt;" in html and "&lt;b&gt;" in html
    assert "http" not in html.replace("http-equiv", "") and "default-src 'none'" in html
    data = re.search(r"data:image/png;base64,([^\"]+)", html)
    assert data is not None
    with Image.open(BytesIO(b64decode(data[1]))) as picture:
        assert picture.getpixel((0, 0)) == (255, 0, 0)
