"""What checkpoints say of their licence, and what garbage may stand there."""

from dataclasses import replace
from pathlib import Path

import pytest

from marmo.catalog import find
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.licence import licence_of, licence_of_card


@pytest.fixture(scope="module")
def checkpoint(stand_in: Path) -> Checkpoint:
    return open_checkpoint(stand_in)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({}, None),
        ({"modelspec.license": "CreativeML Open RAIL-M"}, "CreativeML Open RAIL-M"),
        ({"license": "mit", "modelspec.license": " "}, "mit"),
        ({"license": "a\nb  c"}, "a b c"),
        ({"license": "x" * 10_000}, "x" * 200),
    ],
)
def test_metadata(checkpoint: Checkpoint, metadata: dict[str, str], licence: str | None):
    assert licence_of(replace(checkpoint, metadata=metadata)) == licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: creativeml-openrail-m\ntags:\n- art\n---\n# A model\nlicense: no\n", "creativeml-openrail-m"),
        ("---\nlicense: 'mit' # short\n---\n", "mit"),
        ("---\r\nlicense: other\r\nlicense_name: stability-ai\r\n---\r\n", "stability-ai"),
        ("---\nlicense: other\n---\n", "other"),
        ("# A model\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
        ("---\nlicense:\n---\n", None),
        ("\x00\xff", None),
    ],
)
def test_model_cards(tmp_path: Path, card: str, licence: str | None):
    (tmp_path / "README.md").write_bytes(card.encode("latin-1"))
    assert licence_of_card(tmp_path / "README.md") == licence


def test_a_folder_s_card_reaches_the_model(stand_in_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in stand_in_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert find(folder).licence == "openrail"
