"""From folders and from memory to pictures: order, defects, prompts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marmo.evaluate.pictures import PictureSet, in_memory, open_pictures
from marmo.files.pictures import save_picture
from marmo.files.record import Record
from marmo.request import ImageRequest
from tests.data.planted import PLANTED, plant


def paint(path: Path, grey: int = 0, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


def recorded(path: Path, prompt: str) -> None:
    versions = {"marmo": "0.1.0", "torch": "2.13.0", "dtype": "float32", "device": "cpu"}
    request = ImageRequest(prompt=prompt, seed=7)
    save_picture(
        path, Image.new("RGB", (8, 8)), Record(**versions, request=request, image=0, weights={}, sigmas=(1.0, 0.0))
    )


def test_folders_are_read_to_any_depth_in_the_order_of_names(tmp_path: Path) -> None:
    for grey, name in enumerate(("b.png", "a.png", "a/b/c.png", "z/a.jpg")):
        paint(tmp_path / name, 10 * grey)
    seen = [(picture.name, int(picture.pixels[0, 0, 0])) for picture in open_pictures(tmp_path)]
    assert seen == [("a.png", 10), ("b.png", 0), ("a/b/c.png", 20), ("z/a.jpg", 30)]
    assert [picture.name for picture in open_pictures(tmp_path, limit=2)] == ["a.png", "b.png"]


def test_pixels_are_those_of_the_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (picture,) = open_pictures(tmp_path)
    (same,) = in_memory([Image.open(tmp_path / "a.png")])
    assert picture.pixels.dtype is torch.uint8
    assert torch.equal(picture.pixels, torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(picture.pixels, same.pixels)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_planted_defects_are_passed_over_named_and_counted(tmp_path: Path) -> None:
    """What is wrong with a caption is no defect here, and no picture is too small to be measured."""
    pictures = open_pictures(plant(tmp_path))
    names = {picture.name for picture in pictures}
    fatal = {"damaged", "empty", "too large"}
    assert names == {name for name, (_, _, kinds) in PLANTED.items() if not fatal & set(kinds)}
    assert {defect.name for defect in pictures.skipped} == set(PLANTED) - names
    assert {defect.kind for defect in pictures.skipped} == fatal
    assert {"turned.jpg", "glass.png", "cmyk.jpg"} <= pictures.defects.keys() - {d.name for d in pictures.skipped}


def test_where_prompts_come_from(tmp_path: Path) -> None:
    """Beside the picture, else in its record; garbled text beside it is none."""
    recorded(tmp_path / "a.png", "inside")
    recorded(tmp_path / "b.png", "inside")
    (tmp_path / "b.txt").write_text("beside")
    recorded(tmp_path / "c.png", "inside")
    (tmp_path / "c.txt").write_bytes(b"a\0b")
    paint(tmp_path / "d.png")
    (tmp_path / "e").mkdir()
    recorded(tmp_path / "e" / "x.png", "inside")
    recorded(tmp_path / "e" / "y.png", "inside")
    (tmp_path / "e" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "x.png", "text": "said"}) + "\n" + json.dumps({"file_name": "y.png"})
    )
    prompts = {picture.name: picture.prompt for picture in open_pictures(tmp_path)}
    assert prompts == {
        "a.png": "inside",
        "b.png": "beside",
        "c.png": "inside",
        "d.png": None,
        "e/x.png": "said",
        "e/y.png": "inside",
    }


def test_the_digest_knows_pictures_and_order_not_names(tmp_path: Path) -> None:
    def digest(*files: tuple[str, int], limit: int | None = None) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, grey in files:
            paint(folder / name, grey)
        return open_pictures(folder, limit).digest()

    first = digest(("a.png", 1), ("b.png", 2))
    assert digest(("c.png", 1), ("d.png", 2)) == first
    assert (
        len({first, digest(("a.png", 2), ("b.png", 1)), digest(("a.png", 1)), digest(("a.png", 1), ("b.png", 3))}) == 4
    )
    assert digest(("a.png", 1), ("b.png", 2), limit=2) != first


def test_one_pass_does_not_disturb_another(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        paint(tmp_path / name)
    pictures = open_pictures(tmp_path)
    assert len(list(zip(pictures, pictures, strict=True))) == 3


def test_pictures_in_memory() -> None:
    made = list(in_memory([Image.new("L", (4, 3)), torch.zeros(3, 5, 6, dtype=torch.uint8)], ["one", "two"]))
    assert [(picture.name, tuple(picture.pixels.shape), picture.prompt) for picture in made] == [
        ("0", (3, 3, 4), "one"),
        ("1", (3, 5, 6), "two"),
    ]


@pytest.mark.parametrize("pixels", [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_other_tensors_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \[3, H, W\]"):
        list(in_memory([pixels]))


def test_no_collection_and_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no collection"):
        open_pictures(tmp_path / "no")
    with pytest.raises(ValueError, match="at least one picture"):
        paint(tmp_path / "a.png")
        open_pictures(tmp_path, limit=0)
    assert isinstance(open_pictures(tmp_path), PictureSet)
