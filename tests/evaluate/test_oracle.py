"""What an oracle's answers mean, and what it writes opens."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marmo.data.atlas import drawn_now
from marmo.data.compose import compose
from marmo.data.corpus import STYLES
from marmo.data.scenes import scene
from marmo.evaluate.oracle import (
    COLOUR_NAMES,
    FORMAT,
    Judge,
    _peaks,
    box,
    concept_names,
    load_oracle,
    write_oracle,
)
from marmo.models.oracle import RESIDUAL, Cells, Oracle
from marmo.models.resnet import ResNetConfig
from marmo.models.vgg import VGGConfig
from marmo.weights.store import from_state, write

SMALL = replace(
    RESIDUAL,
    finder=ResNetConfig(widths=(4, 8), depth=1),
    namer=VGGConfig(widths=(4, 4, 8, 8)),
    num_concepts=3,
)


def test_boxes_hold_all_ink_and_no_more():
    """The box from the scene's truth against the pixels that differ from the background."""
    for index in range(12):
        shown = scene(-5, index, "all")
        if len(shown.things) != 1:
            continue
        bare = compose(
            [replace(shown, things=(replace(shown.things[0], side=1e-3),))], 128, drawn_now(torch.device("cpu"))
        )
        picture = compose([shown], 128, drawn_now(torch.device("cpu")))
        ink = ((picture.int() - bare.int()).abs().amax(1)[0] > 8).nonzero()
        top, left = (ink.amin(0) / 128).tolist()
        bottom, right = ((ink.amax(0) + 1) / 128).tolist()
        upright = shown.things[0].angle == 0
        for found, said in zip((left, top, right, bottom), box(shown.things[0]), strict=True):
            assert abs(found - said) < (0.02 if upright else 0.12)  # a turned thing's box is that of its turned box


def test_peaks_become_boxes():
    logits = torch.full((2, 16, 16), -9.0)
    logits[0, 4, 8], logits[0, 4, 9], logits[1, 15, 0] = 3.0, 2.0, 1.0
    offset = torch.full((2, 2, 16, 16), 0.5)
    size = torch.full((2, 2, 16, 16), math.log(0.25))
    rows, boxes = _peaks(Cells(logits, offset, size))
    assert rows.tolist() == [0, 1], "a cell beside a surer one is none"
    assert torch.allclose(
        boxes[0], torch.tensor([8.5 / 16 - 0.125, 4.5 / 16 - 0.125, 8.5 / 16 + 0.125, 4.5 / 16 + 0.125])
    )
    assert boxes.min() >= 0 and boxes.max() <= 1


@pytest.mark.long
def test_what_it_writes_opens(tmp_path: Path):
    network = Oracle(SMALL).eval()
    torch.nn.init.constant_(network.finder.head.bias, 2.0)  # sees things everywhere
    torch.nn.init.constant_(network.namer.nothing.bias, -9.0)  # and knows them all
    write_oracle(tmp_path / "oracle.safetensors", network, ("cat", "dog", "fox"))
    opened = load_oracle(tmp_path / "oracle.safetensors")
    assert opened.network.config == SMALL and opened.concepts == ("cat", "dog", "fox")
    pictures = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    seen = opened(pictures)
    assert seen == Judge(network, ("cat", "dog", "fox"))(pictures)
    things = [thing for picture in seen for thing in picture]
    assert things and all(thing.concept in ("cat", "dog", "fox") and 0 < thing.confidence < 1 for thing in things)
    assert all(thing.style in STYLES and thing.colour in COLOUR_NAMES for thing in things)
    assert [thing.confidence for thing in seen[0]] == sorted((thing.confidence for thing in seen[0]), reverse=True)
    assert opened.features(pictures).shape == (2, 8)


def test_nothing_is_not_found(tmp_path: Path):
    network = Oracle(SMALL).eval()
    torch.nn.init.constant_(network.finder.head.bias, 2.0)
    torch.nn.init.constant_(network.namer.nothing.bias, 99.0)
    assert Judge(network, ("cat", "dog", "fox"))(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)) == [[]]


@pytest.mark.parametrize(
    "told",
    [None, "", "{", "[]", "{}", '{"concepts": 3}', "trunk", "size", "kind"],
)
def test_other_files_are_refused(tmp_path: Path, told: str | None):
    path = tmp_path / "oracle.safetensors"
    write_oracle(path, Oracle(SMALL), ("cat", "dog", "fox"))
    trunk = {"kind": "resnet", "widths": [4, 8], "depth": 1}
    damaged = {
        "trunk": {"finder": trunk, "namer": {"kind": "resnet"}, "concepts": []},
        "size": {"finder": trunk, "namer": trunk | {"depth": 10**9}, "concepts": []},
        "kind": {"finder": trunk, "namer": trunk | {"kind": "os.system"}, "concepts": []},
    }
    text = json.dumps(damaged[told]) if told in damaged else told
    write(path, from_state(Oracle(SMALL).state_dict()), {} if text is None else {FORMAT: text})
    with pytest.raises(ValueError, match="holds no oracle"):
        load_oracle(path)


def test_every_concept_has_an_answer():
    assert len(set(concept_names())) == len(concept_names()) == RESIDUAL.num_concepts
