import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marmo.data.defects import USED, Defect, Survey, examine, survey
from marmo.data.folder import Folder
from marmo.data.item import Item
from marmo.data.pictures import open_pictures
from tests.data.planted import PLANTED, plant

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.mark.parametrize("name", PLANTED)
def test_each_defect_is_named(name):
    picture, caption, kinds = PLANTED[name]
    found = examine(Item(name, picture, caption))
    assert tuple(defect.kind for defect in found.defects) == kinds
    assert all(defect.name == name and defect.detail for defect in found.defects)
    assert (found.picture is None) == any(kind not in USED for kind in kinds)


@pytest.mark.parametrize("name, size", [("good.png", (64, 48)), ("turned.jpg", (48, 64)), ("moving.webp", (64, 48))])
def test_pictures_come_upright_and_rgb(name, size):
    found = examine(Item(name, *PLANTED[name][:2]))
    assert (found.picture.mode, found.picture.size) == ("RGB", size)


def test_what_the_pixels_become():
    def middle(name: str) -> tuple[int, ...]:
        return examine(Item(name, *PLANTED[name][:2])).picture.getpixel((8, 24))

    assert middle("deep.png") == (40_000 >> 8,) * 3
    assert middle("glass.png") == (255, 255, 255)
    assert np.abs(np.subtract(middle("cmyk.jpg"), (200, 30, 30))).max() < 8
    assert np.abs(np.subtract(middle("turned.jpg"), (200, 30, 30))).max() < 8


@pytest.mark.parametrize(
    "name, caption",
    [("good.png", "a red square"), ("marked.png", "a red square"), ("windows.png", "a red square"),
     ("chinese.png", "一只红色的狐狸"), ("silent.png", "")],
)  # fmt: skip
def test_captions(name, caption):
    assert examine(Item(name, *PLANTED[name][:2])).caption == caption


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory) -> Survey:
    return survey(Folder(plant(tmp_path_factory.mktemp("planted"))))


def test_the_survey_counts(surveyed):
    kinds = [kind for _, _, kinds in PLANTED.values() for kind in kinds]
    assert surveyed.counts == {kind: kinds.count(kind) for kind in surveyed.counts}
    assert sum(surveyed.counts.values()) == len(kinds)
    used = [name for name, (_, _, kinds) in PLANTED.items() if USED.issuperset(kinds)]
    assert sum(size is not None for size in surveyed.sizes) == len(used)


def test_the_report_names_them(surveyed):
    report = surveyed.report()
    assert report.startswith(f"{len(PLANTED) - 13} of {len(PLANTED)} entries can be used\n")
    for name, (_, _, kinds) in PLANTED.items():
        for kind in kinds:
            assert f"{name}: {kind}: " in report
    assert "     6 damaged (passed over)\n" in report and "     2 animated\n" in report


def test_a_run_reads_through(tmp_path, caplog):
    source = open_pictures(plant(tmp_path), seed=0, size=32)
    for position in range(3 * len(PLANTED)):
        picture, caption = source(position)
        assert picture.shape == (3, 32, 32) and picture.dtype is torch.float32 and isinstance(caption, str)
        assert picture.min() >= -1 and picture.max() <= 1
    assert {name for name, (_, _, kinds) in PLANTED.items() if kinds} == source.defects.keys()
    skipped = [name for name, (_, _, kinds) in PLANTED.items() for kind in kinds if kind not in USED]
    assert sorted(record.getMessage().partition(" is passed over: ")[0] for record in caplog.records) == sorted(skipped)


def test_nothing_but_defects(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"none of 2 entries can be used: [ab].png: "):
        open_pictures(tmp_path, seed=0, size=32)(0)


@given(st.binary(max_size=300), st.none() | st.binary(max_size=40))
def test_any_bytes(picture, caption):
    found = examine(Item("x", picture, caption))
    assert found.picture is None and any(defect.skips for defect in found.defects)


@pytest.mark.parametrize("name", ["good.png", "good.jpg", "good.webp", "turned.jpg", "moving.webp", "deep.png"])
def test_damaged_anywhere(name):
    chance, (data, caption, _) = random.Random(name), PLANTED[name]
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        found = examine(Item(name, bytes(broken[: chance.randint(1, len(broken))]), caption))
        assert (found.picture is None) == any(defect.skips for defect in found.defects), "read, or a reason why not"


def test_a_defect_says_whether_it_skips():
    assert Defect("a", "empty", "").skips and not Defect("a", "CMYK", "").skips
