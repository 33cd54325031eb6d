"""A collection of which some pictures are kept apart: always the same ones, never learnt from."""

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from marmo.data.heldout import open_split, split_of


def pictures(folder: Path, count: int, first: int = 0) -> Path:
    """Every picture a brightness of its own, 8 pixels a side, without a caption."""
    folder.mkdir()
    for index in range(count):
        Image.new("L", (8, 8), first + index).save(folder / f"{index:03}.png")
    return folder


def brightness(rows: torch.Tensor) -> set[int]:
    return {round((float(row.mean()) + 1) * 127.5) for row in rows}


def test_halves_have_nothing_in_common(tmp_path: Path):
    path = pictures(tmp_path / "a", 50)
    split = open_split(path, 0.2, seed=0, size=8, channels=1, compared=1000)
    seen = brightness(torch.stack([split.source(position)[0] for position in range(40)]))
    assert split.count == 40 and seen == brightness(split.seen) and len(seen) == 40
    assert brightness(split.heldout) == set(range(50)) - seen
    assert brightness(torch.stack([split.source(position)[0] for position in range(40, 80)])) == seen
    other = open_split(path, 0.2, seed=5, size=8, channels=1, compared=1000)
    assert brightness(other.heldout) == brightness(split.heldout), "whatever the seed"
    assert [split.source(p)[0].mean() for p in range(9)] != [other.source(p)[0].mean() for p in range(9)]


def test_others_may_lie_elsewhere(tmp_path: Path):
    path, others = pictures(tmp_path / "a", 5), pictures(tmp_path / "b", 7, first=100)
    split = open_split(path, others, seed=0, size=4, channels=3, compared=4)
    assert split.count == 5 and split.seen.shape == (4, 3, 4, 4) == split.heldout.shape
    assert brightness(split.heldout) < set(range(100, 107))


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = pictures(tmp_path / "a", 20)
    for index in range(0, 20, 2):
        (path / f"{index:03}.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        split = open_split(path, 0.2, seed=0, size=8, channels=1, compared=100)
    assert brightness(split.seen).isdisjoint(brightness(split.heldout)) and "passed over" in caplog.text


def test_pictures_are_not_enlarged(tmp_path: Path):
    with pytest.raises(ValueError, match="too small"):
        open_split(pictures(tmp_path / "a", 3), 0.4, seed=0, size=16, channels=3, compared=4)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_that_are_none(tmp_path: Path, share: float):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        open_split(pictures(tmp_path / "a", 5), share, seed=0, size=8, channels=1, compared=4)


def test_something_must_be_left(tmp_path: Path):
    with pytest.raises(ValueError, match="all would be kept apart"):
        open_split(pictures(tmp_path / "a", 1), 0.5, seed=0, size=8, channels=1, compared=4)


def test_pictures_at_hand():
    rows = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 1, 4, 4)
    split = split_of(rows[:4], rows[4:], seed=0)
    assert split.count == 4 and brightness(split.seen) == brightness(rows[:4])
    assert brightness(torch.stack([split.source(position)[0] for position in range(4)])) == brightness(rows[:4])
