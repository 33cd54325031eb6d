"""What a model says beside its weights: read and written without loss, in a folder as in a single file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.cards import latent_card
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.notes import CONCEPTS_KEY, concepts_in, read_notes, write_notes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NOTES = {
    "license": "apache-2.0",
    "marmo.defaults": '{"steps":14,"guidance":{"rescale":0.5}}',
    "odd": '{"a": 1}',
    "broken": "{",
    CONCEPTS_KEY: "# concepts of scenes-v2\nfox\nred-apple  # 苹果\n\n",
}


def test_a_folder_keeps_all_notes(tmp_path: Path):
    write_notes(tmp_path, NOTES)
    assert read_notes(tmp_path) == NOTES
    assert concepts_in(NOTES) == ("fox", "red-apple") and concepts_in({}) == ()
    said = json.loads((tmp_path / "marmo.json").read_text())
    assert said["marmo.defaults"] == {"steps": 14, "guidance": {"rescale": 0.5}}  # for people
    assert said["odd"] == '{"a": 1}' and CONCEPTS_KEY not in said
    assert (tmp_path / "concepts.txt").read_text() == NOTES[CONCEPTS_KEY]


@settings(max_examples=50, deadline=None)
@given(notes=st.dictionaries(TEXT, TEXT | st.just('{"é":[1,2.50]}')))
def test_any_notes_come_back(notes: dict[str, str], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("notes")
    write_notes(folder, notes)
    assert read_notes(folder) == notes
    assert bool(list(folder.iterdir())) == bool(notes)


@pytest.mark.parametrize(("file", "data"), [("marmo.json", b"["), ("marmo.json", b"{"), ("concepts.txt", b"\xff")])
def test_notes_that_cannot_be_read_name_their_file(file: str, data: bytes, tmp_path: Path):
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match=file):
        read_notes(tmp_path)


@pytest.mark.long
def test_notes_go_from_folder_to_file_and_back(stand_in: Path, tmp_path: Path):
    own = replace(open_checkpoint(stand_in), metadata=NOTES)
    write_folder(own, tmp_path / "folder")
    write_single_file(open_checkpoint(tmp_path / "folder"), tmp_path / "again.safetensors")
    again = open_checkpoint(tmp_path / "again.safetensors")
    assert again.metadata == NOTES
    card = latent_card(again)
    assert (card.concepts, card.defaults.steps, card.licence) == (("fox", "red-apple"), 14, "apache-2.0")
    assert card.defaults.guidance.rescale == 0.5
