"""The oracle recipe: its losses, it learns, it goes on, every knob acts."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from marmo.data.atlas import Sprites, drawn_now
from marmo.data.compose import compose
from marmo.data.layout import reach as reaches
from marmo.data.scenes import scene
from marmo.data.windows import window
from marmo.evaluate.oracle import COLOUR_NAMES, box, concept_names, load_oracle, look
from marmo.models.oracle import MARGIN, Cells, Names, cut_out
from marmo.models.vgg import VGGConfig
from marmo.recipes.oracle import Config, Truth, accuracies, finder_loss, main, namer_loss, tiny, truth

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return drawn_now(CPU)


def small(folder: Path, **changes: object) -> Config:
    few = {"images": 16, "batch_size": 8, "warmup": 0, "tail": 0, "early_images": 8, "log_images": 8, "save_images": 0}
    return replace(tiny(), folder=folder, **(few | changes))


def rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


def test_the_truth_is_the_scenes():
    scenes = [scene(-9, index, "all") for index in range(8)]
    right = truth([shown.things for shown in scenes], CPU)
    things = [(row, thing) for row, shown in enumerate(scenes) for thing in shown.things]
    assert len(things) == len(right.rows) > 8
    for n, (row, thing) in enumerate(things):
        assert (right.rows[n], concept_names()[right.concepts[n]]) == (row, thing.concept)
        assert (right.looks[n], COLOUR_NAMES[right.colours[n]]) == (look(thing), thing.colour)
        assert right.boxes[n].tolist() == pytest.approx(box(thing))


def told(boxes: list[list[float]]) -> Truth:
    count = len(boxes)
    zeros = torch.zeros(count, dtype=torch.long)
    return Truth(zeros, torch.tensor(boxes), zeros, zeros, zeros)


def perfect() -> Cells:
    """A box from 0.25 to 0.5: its middle, 0.375 of 16 cells, is the corner of cell 6."""
    logits = torch.full((1, 16, 16), -20.0)
    logits[0, 6, 6] = 20.0
    return Cells(logits, torch.zeros(1, 2, 16, 16), torch.full((1, 2, 16, 16), 0.25).log())


def test_a_perfect_finder_has_no_loss_and_others_have():
    right = told([[0.25, 0.25, 0.5, 0.5]])
    assert finder_loss(perfect(), right).item() == pytest.approx(0, abs=1e-6)
    beside, far, missing = (perfect() for _ in range(3))
    beside.logits[0, 7, 6] = 20.0
    assert finder_loss(beside, right).item() == pytest.approx(0, abs=1e-6), "cells beside a middle are free"
    far.logits[0, 9, 6] = 20.0
    assert finder_loss(far, right) > 10
    missing.logits[0, 6, 6] = -20.0
    assert finder_loss(missing, right) > 10
    assert finder_loss(perfect()._replace(size=perfect().size + 0.5), right).item() == pytest.approx(0.5)
    assert finder_loss(perfect()._replace(offset=perfect().offset + 0.25), right).item() == pytest.approx(0.25)


def test_the_namer_learns_what_nothing_is():
    right = told([[0.0, 0.0, 1.0, 1.0]] * 2)
    names = Names(torch.zeros(3, 3, 2), torch.zeros(3, 1), torch.zeros(3, 5))
    chance = sum(torch.tensor([7.0, 5.0]).log()).item()
    assert namer_loss(names, right).item() == pytest.approx(chance)
    names.nothing[2] = 50.0  # the third cut-out is of nothing
    assert namer_loss(names, right).item() == pytest.approx(chance - torch.tensor(7.0).log().item() / 3)
    names.colour[2] = torch.tensor([99.0, 0, 0, 0, 0])
    assert namer_loss(names, right).item() == pytest.approx(chance - torch.tensor(7.0).log().item() / 3)


def test_a_thing_is_named_by_all_of_its_looks():
    names = Names(torch.full((2, 3, 2), -9.0), torch.zeros(2, 1), torch.zeros(2, 5))
    names.look[0, 0] = torch.tensor([0.5, 2.0])
    names.look[1, 2] = 1.0  # each of them is less sure than 1.5, both together are not
    names.look[1, 0, 0] = 1.5
    assert names.concept.argmax(1).tolist() == [0, 2]
    right = told([[0.0, 0.0, 1.0, 1.0]] * 2)._replace(looks=torch.tensor([1, 1]))
    assert accuracies(names, right) == {"concept": 0.5, "look": 0.5, "colour": 1.0}


@pytest.mark.parametrize("index", range(4))
def test_what_is_drawn_is_what_would_be_cut_out(index: int, sprites: Sprites):
    """A window of a scene, drawn by itself, shows what the judge cuts out of the picture."""
    shown = scene(-9, index, "all")
    thing = shown.things[0]
    side = MARGIN * max(2 * reach for reach in reaches(thing))
    pixels = 8 * round(side * 128 / 8)
    part = window(shown, thing.x - side / 2, thing.y - side / 2, side)
    alone = compose([part], pixels, sprites).float()
    picture = compose([shown], 128, sprites).float()
    cut = cut_out(picture, torch.tensor([0]), torch.tensor([box(thing)]), pixels)
    assert (alone - cut).abs().mean() < 4, "of 255: edges fall between pixels"


@pytest.mark.long
def test_tiny_learns(tmp_path: Path, sprites: Sprites):
    """Measured: finding 4.7 -> 2.9, naming 10.9 -> 9.7; a thing's own colours are told from a named one."""
    path = main(replace(tiny(), folder=tmp_path), sprites)
    first, *_, last = rows(tmp_path)
    assert last["finding"] < 0.8 * first["finding"] and last["naming"] < first["naming"] - 0.4
    assert load_oracle(path).network.config == tiny().model


@pytest.mark.long
def test_resumed_is_unbroken(tmp_path: Path, sprites: Sprites):
    straight = main(small(tmp_path / "straight", images=32), sprites)
    main(small(tmp_path / "broken", images=16, save_images=16), sprites)
    broken = main(small(tmp_path / "broken", images=32, save_images=16), sprites)
    assert broken.read_bytes() == straight.read_bytes()


ACTS = {
    "model": replace(tiny().model, namer=VGGConfig(widths=(4, 4, 8, 8))),
    "sizes": (96,),
    "found_every": 1,
    "wobble": 0.0,
    "batch_size": 4,
    "lr": 5e-3,
    "warmup": 16,
    "tail": 16,
    "early_size": 24,
    "early_images": 0,
    "betas": (0.5, 0.6),
    "weight_decay": 0.9,
    "clip": 1e-4,
    "ema": 0.2,
    "seed": 1,
}  # fmt: skip
ELSEWHERE = {"folder", "images", "device", "dtype", "workers", "log_images", "save_images", "keep"}


@pytest.mark.long
def test_every_knob_acts(tmp_path: Path, sprites: Sprites):
    assert ACTS.keys() | ELSEWHERE == {field.name for field in fields(Config)}
    seen = {"usual": main(small(tmp_path / "usual"), sprites).read_bytes()}
    for knob, value in ACTS.items():
        seen[knob] = main(small(tmp_path / knob, **{knob: value}), sprites).read_bytes()
    assert len(set(seen.values())) == len(seen), "two knobs do the same"
