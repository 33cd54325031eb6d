"""The judges: two small networks that say what is in a picture, trained on scenes whose truth is known.

    look = load_oracle()                       # or load_oracle("guard"), or a file of your own training
    look(pictures)                             # uint8 B 3 H W -> for each picture the things that are in it

An oracle knows the concepts of the scene corpus and nothing else.  `recipes.oracle` trains it; docs/evaluation.md says
how often it is right.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.data.colours import COLOURS, name_of
from marmo.data.corpus import STYLES, Style, corpus, shape_concepts
from marmo.data.layout import reach
from marmo.data.scene import Thing
from marmo.data.shapes import FILLS, SHAPES
from marmo.evaluate.found import Box, Found
from marmo.models.oracle import RESIDUAL, Cells, Oracle, OracleConfig, TrunkConfig, cut_out
from marmo.models.resnet import ResNetConfig
from marmo.models.vgg import VGGConfig
from marmo.nn.blueprint import blueprint
from marmo.weights.keymap import fill
from marmo.weights.quantize import expanded
from marmo.weights.store import Tensors, from_state, open_file, write

Bundled = Literal["first", "guard"]

FORMAT = "marmo.oracle"
"""The key of the metadata that holds, as JSON, what the network was trained for."""

COLOUR_NAMES = (*COLOURS, None)
"""What the namer's colour answers mean; None leaves the drawing as its artist coloured it."""

TRUNKS: dict[str, type[TrunkConfig]] = {"resnet": ResNetConfig, "vgg": VGGConfig}
LARGEST = 4096
"""Of any number in an architecture: a file of a stranger may say anything."""

PIXELS = 128
"""Larger pictures are shrunk to this side before they are looked at."""
LEAST = 0.3
"""How sure the finder must be that there is a thing."""


@cache
def concept_names() -> tuple[str, ...]:
    """The ids of all concepts of the corpus, then those of the shapes."""
    return tuple(concept.id for concept in (*corpus().concepts, *shape_concepts()))


def look(thing: Thing) -> int:
    """Which of its concept's looks a thing has: the number of its style, or of a shape's filling."""
    return FILLS.index(thing.fill) if thing.fill is not None else STYLES.index(thing.style or STYLES[0])


def box(thing: Thing) -> Box:
    """The box around a thing's ink: left, top, right, bottom, as shares of the picture."""
    across, down = reach(thing)
    return thing.x - across, thing.y - down, thing.x + across, thing.y + down


class Judge:
    """A trained oracle, ready to look at pictures.

    Args:
        concepts: what the answers of its namer mean, without the last one.
        temperature: what its logits are divided by, so that of the things of which it is so sure, so many are right.
    """

    def __init__(self, network: Oracle, concepts: Sequence[str], temperature: float = 1.0) -> None:
        assert len(concepts) == network.config.num_concepts
        self.network, self.concepts, self.temperature = network.eval(), tuple(concepts), temperature

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> list[list[Found]]:
        """uint8 B 3 H W -> what is in each, the surest first."""
        pixels = _to_pixels(pictures)
        found: list[list[Found]] = [[] for _ in pictures]
        rows, boxes = _peaks(self.network.find(pixels))
        if len(rows) == 0:
            return found
        names = self.network.name(cut_out(pixels, rows, boxes, self.network.config.namer_size))
        sure, concepts = names.cooled(self.temperature).concept.softmax(1).max(1)
        for n, number in enumerate(map(int, concepts)):
            if number == len(self.concepts):
                continue  # nothing that it knows
            concept = self.concepts[number]
            style = None if concept in SHAPES else STYLES[int(names.look[n, number].argmax())]
            left, top, right, bottom = map(float, boxes[n])
            colour = COLOUR_NAMES[int(names.colour[n].argmax())] or _own_colour(concept, style)
            found[int(rows[n])].append(Found(concept, float(sure[n]), (left, top, right, bottom), style, colour))
        return [sorted(things, key=lambda thing: -thing.confidence) for things in found]

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """What the namer makes of whole pictures: uint8 B 3 H W -> B C, float32."""
        pixels = _to_pixels(pictures)
        whole = torch.tensor([[0.07, 0.07, 0.93, 0.93]]).expand(len(pixels), 4)
        size = self.network.config.namer_size
        return self.network.namer.features(cut_out(pixels, torch.arange(len(pixels)), whole, size))


@cache
def _own_colour(concept: str, style: Style | None) -> str | None:
    """The name of the colour that a drawing has by itself: a rose as its artist drew it is a red rose, too."""
    own = None if style is None else corpus()[concept].looks[style].colour
    return None if own is None else name_of(own)


def narrowed(judge: Judge, concepts: Sequence[str]) -> Judge:
    """The same judge, who has never heard of the others.

    Raises `ValueError` for a concept that it does not know.
    """
    if unknown := sorted(set(concepts) - set(judge.concepts)):
        raise ValueError(f"this oracle does not know {', '.join(unknown[:5])}; it was trained on another corpus")
    network, rows = judge.network, torch.tensor([judge.concepts.index(concept) for concept in concepts])
    state, looks = network.state_dict(), network.config.num_looks
    for name in ("namer.look.weight", "namer.look.bias"):
        state[name] = state[name].unflatten(0, (-1, looks))[rows].flatten(0, 1)
    small = Oracle(replace(network.config, num_concepts=len(concepts)))
    small.load_state_dict(state)
    return Judge(small, concepts, judge.temperature)


def load_oracle(which: Bundled | Path = "first") -> Judge:
    """A bundled oracle, or one from a file that `recipes.oracle` wrote.

    Raises `ValueError` for a file that holds none.
    """
    path = which if isinstance(which, Path) else bundled(which)
    tensors = expanded(open_file(path), path)
    config, concepts, temperature = _told(path, tensors)
    with blueprint():
        network = Oracle(config)
    fill(network, tensors, torch.float32, torch.device("cpu"))
    return Judge(network, concepts, temperature)


def bundled(which: Bundled) -> Path:
    """Where an oracle that comes with Marmo lies."""
    return Path(__file__).parents[1] / "pretrained" / "oracles" / f"{which}.safetensors"


def write_oracle(path: Path, network: Oracle, concepts: Sequence[str] | None = None, temperature: float = 1.0) -> None:
    """A safetensors file that `load_oracle` opens."""
    config = network.config
    told = {
        "finder": _as_json(config.finder),
        "namer": _as_json(config.namer),
        "concepts": list(concept_names() if concepts is None else concepts),
        "temperature": temperature,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, from_state(network.state_dict()), {FORMAT: json.dumps(told)})


def _as_json(trunk: TrunkConfig) -> dict[str, object]:
    kind = next(name for name, config in TRUNKS.items() if isinstance(trunk, config))
    return {"kind": kind, **asdict(trunk)}


def _told(path: Path, tensors: Tensors) -> tuple[OracleConfig, Sequence[str], float]:
    """What the file's metadata says: the architecture, which concepts its namer knows, and its temperature."""
    try:
        told = cast(dict[str, Any], json.loads(tensors.metadata[FORMAT]))
        concepts = [str(concept) for concept in told["concepts"]]
        finder, namer = _trunk(**told["finder"]), _trunk(**told["namer"])
        temperature = float(told.get("temperature", 1.0))
        if not 0 < temperature < inf:
            raise ValueError("no temperature")
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} holds no oracle: its metadata has no {FORMAT} that could be read") from None
    return replace(RESIDUAL, finder=finder, namer=namer, num_concepts=len(concepts)), concepts, temperature


def _trunk(kind: str, **numbers: int | list[int]) -> TrunkConfig:
    """The inverse of `_as_json`; numbers beyond any oracle's are refused."""
    flat = [number for value in numbers.values() for number in (value if isinstance(value, list) else [value])]
    if not all(type(number) is int and 0 < number <= LARGEST for number in flat):
        raise ValueError("no sizes")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in numbers.items()}
    return TRUNKS[kind](**cast(dict[str, Any], fields))


def _to_pixels(pictures: Tensor) -> Tensor:
    """uint8 B 3 H W -> B 3 128 128 in [-1, 1]."""
    pixels = pictures.float() / 127.5 - 1
    if pixels.shape[2:] == (PIXELS, PIXELS):
        return pixels
    resized = F.interpolate(pixels, (PIXELS, PIXELS), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)


def _peaks(cells: Cells) -> tuple[Tensor, Tensor]:
    """The cells that are sure, and surer than their neighbours: rows N, boxes N 4.

    Their own certainty goes no further: the focal loss leaves it lower than it is right.
    """
    there = cells.logits.sigmoid()  # B G G
    peaks = (there == F.max_pool2d(there[:, None], 3, 1, 1)[:, 0]) & (there > LEAST)
    rows, y, x = peaks.nonzero(as_tuple=True)
    offset, size = cells.offset[rows, :, y, x], cells.size[rows, :, y, x].exp()  # N 2 each
    middle = (torch.stack([x, y], 1) + offset) / there.shape[1]
    boxes = torch.cat([middle - size / 2, middle + size / 2], 1).clamp(0, 1)
    return rows, boxes
