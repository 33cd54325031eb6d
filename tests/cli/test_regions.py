"""Regions as words of the command line."""

from pathlib import Path

import pytest

from marmo.cli.regions import region_from


def test_a_box_a_mask_and_a_weight(tmp_path: Path):
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"picture")
    assert region_from("a fox @ 0,0.25,.5,1") == {"prompt": "a fox", "box": [0, 0.25, 0.5, 1]}
    assert region_from("a fox@0, 0, 1, 1 @ 0.8") == {"prompt": "a fox", "box": [0, 0, 1, 1], "weight": 0.8}
    assert region_from(f"a fox @ {mask}") == {"prompt": "a fox", "mask": b"picture"}
    assert region_from(f"a @ b @ {mask}") == {"prompt": "a @ b", "mask": b"picture"}
    assert region_from("me@home @ 0,0,1,1 @ 1") == {"prompt": "me@home", "box": [0, 0, 1, 1], "weight": 1}


def test_a_region_has_a_place():
    with pytest.raises(ValueError, match="PROMPT @ LEFT,TOP,RIGHT,BOTTOM"):
        region_from("a fox")
    with pytest.raises(FileNotFoundError):
        region_from("a fox @ 0,0,1")
