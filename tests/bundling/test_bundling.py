"""From a trained folder to a bundled model: what is written, what is refused, and that all of it is true."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from marmo.bundling import __main__ as bundling
from marmo.bundling import curves, page, trial
from marmo.bundling.__main__ import Bundle
from marmo.bundling.runs import read_run
from marmo.cards import latent_card
from marmo.data.selection import listed
from marmo.library.bundled import read_sums
from marmo.request_parts import Guidance
from marmo.weights.checkpoint import open_checkpoint
from tests.bundling.runs import write_run


@pytest.mark.long
def test_the_result_is_a_small_model_with_its_notes(bundle: Bundle, trained: Path):
    checkpoint = open_checkpoint(bundle.output)
    card = latent_card(checkpoint)
    assert (card.licence, card.target, card.concepts) == ("apache-2.0", "v", tuple(listed(12)))
    defaults = card.defaults
    assert (defaults.width, defaults.steps, defaults.guidance) == (32, 2, Guidance(rescale=0.5, high_sigma=50))
    sizes = [sum(file.stat().st_size for file in found.files) for found in (checkpoint, open_checkpoint(trained))]
    assert sizes[0] < 0.62 * sizes[1]  # the stand-in holds 16 bits
    floors = trial.Floors.of(checkpoint)
    assert floors.right == 0 and 15 < floors.psnr < 97
    assert json.loads((bundle.output / "unet" / "config.json").read_text())["sample_size"] == 4


@pytest.mark.long
def test_every_file_is_in_the_sums_and_nothing_else(bundle: Bundle):
    folder = bundle.output.parent
    files = {file.relative_to(folder).as_posix(): file for file in bundle.output.rglob("*") if file.is_file()}
    assert read_sums(folder) == {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.long
def test_the_card_says_what_was_measured(bundle: Bundle):
    text = (bundle.output / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    for said in (
        "an abacus", "12 concepts", "| latent | 1,984 | 1.0 |", "marmo train latent cpu --seed 3", "Twemoji",
        "CC-BY 4.0", "| seen | colors | both | 81 % | 70 % to 90 % | 120 |", "| heldout_colour | colors | seen | 81 %",
        "| colour right | 85.0 % | 97.0 % | 81.0 % (70.0 to 90.0) | below |",
    ):  # fmt: skip
        assert said in text, said
    for file in open_checkpoint(bundle.output).files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in text
    with Image.open(bundle.output / page.SHEET) as sheet:
        assert sheet.size == (6 * 32, 4 * 32)
    assert "<polyline" in (bundle.output / page.CURVES).read_text()


@pytest.mark.long
def test_the_trial_asks_only_what_the_model_knows(bundle: Bundle):
    asked = trial.asked(listed(12))
    assert len(asked) == 24 and {question.language for question in asked} == {"en", "zh"}
    things = {thing.concept for question in asked for thing in question.prompt.scene.things if not thing.is_shape}
    assert things and things <= set(listed(12))


def test_what_is_refused(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="exists; remove it, or choose another name"):
        bundle.bundle()
    elsewhere = replace(bundle, output=tmp_path / "other")
    with pytest.raises(ValueError, match="holds no training run"):
        replace(elsewhere, run=tmp_path).bundle()
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no scores"):
        replace(elsewhere, scores=tmp_path / "scores.json").bundle()
    (tmp_path / "wrong.json").write_text('{"steps": 0}')
    with pytest.raises(ValueError, match="steps: must be greater than or equal to 1"):
        replace(elsewhere, defaults=tmp_path / "wrong.json").bundle()
    monkeypatch.setattr(bundling, "MAX_WEIGHTS", 1_000_000)
    with pytest.raises(ValueError, match=r"its weights take \d\.\d MB in 8 bits \(text .* M parameters"):
        bundling.check_size(open_checkpoint(bundle.output))
    with pytest.raises(ValueError, match=r"all together may have 1 MB"):
        elsewhere.bundle()
    assert not elsewhere.output.exists() and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"right": "high", "psnr": 1}', '{"right": 1}'])
def test_floors_that_cannot_be_read(note: str, stand_in: Path):
    checkpoint = replace(open_checkpoint(stand_in), metadata={trial.KEY: note})
    with pytest.raises(ValueError, match=r"carries no marmo\.floors that can be read"):
        trial.Floors.of(checkpoint)


def test_hours_are_hours_of_work(tmp_path: Path):
    run = read_run(write_run(tmp_path / "latent"))
    assert (run.name, run.images, run.hours) == ("latent", 1984, pytest.approx(1.0))
    assert run.curve("validation")[0] == (32, 0.6) and run.curve("psnr") == []


def test_curves_keep_their_ends_and_their_order():
    points = [(float(index), 100.0 / index) for index in range(1, 2001)]
    drawn = curves.svg({"loss & more": points, "empty": [(1, 0)]}, "a run")
    path = drawn.split('points="')[1].split('"')[0].split()
    assert 250 < len(path) <= curves.MAX_POINTS and "loss &amp; more 0.05" in drawn and "empty" not in drawn
    heights = [float(pair.split(",")[1]) for pair in path]
    assert heights == sorted(heights)  # an SVG counts downwards
    with pytest.raises(ValueError, match="there is no curve to draw"):
        curves.svg({"loss": [(1, 1)]}, "a run")
