"""Oracle: two small networks learn to find things in pictures and to say what they are.

    python -m marmo.recipes.oracle first --folder out/oracle
    python -m marmo.recipes.oracle guard --folder out/guard          # another architecture, another seed

The pictures are scenes, whose truth is known exactly, of all combinations (split "all"): a judge must know what a
painter has never seen.  They are blurred, made noisy and squeezed as a decoder would, and between them stand blobs,
noise and shuffled pictures in which there is nothing to find, so that the judge does not see a cat in every stain.
The finder learns points and boxes (Zhou et al. 2019, https://arxiv.org/abs/1904.07850, with one positive cell instead
of a splash).  The namer learns from one thing of every scene, and only the window around it is drawn; the first
windows are smaller than the later ones, and cheaper (progressive resizing, Howard 2018).

Hardware and numbers: docs/evaluation.md.

Shapes: B scenes, N things in them, G cells along a side, S side of a cut-out, K concepts, L looks of each.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from marmo.data.atlas import Sprites, atlas
from marmo.data.compose import compose
from marmo.data.scene import Scene, Thing
from marmo.data.scenes import scene
from marmo.data.windows import window
from marmo.evaluate.disturb import PATCH, blobs, disturbed, shuffled_tiles
from marmo.evaluate.oracle import COLOUR_NAMES, box, concept_names, look, write_oracle
from marmo.models.oracle import GUARD, MARGIN, RESIDUAL, Cells, Names, Oracle, OracleConfig, shrink
from marmo.train import ema, optim
from marmo.train.run import Run, leave, start
from marmo.train.state import Learner, State

EMPTY = 0.125
"""So many pictures are added to a batch in which there is nothing."""
MOST_DRAWN = 64
"""Pixels along the side of a window: larger cut-outs are shrunk to less in any case."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on."""

    folder: Path = Path("out/oracle")
    """Where checkpoints, log and result go; a folder that has them goes on"""
    model: OracleConfig = RESIDUAL
    sizes: tuple[int, ...] = (96, 128)
    """Sides of the pictures that things are found in, or cut out of, in pixels"""
    found_every: int = 8
    """The finder learns from every so many-th picture: it has far less to learn than the namer"""
    wobble: float = 0.06
    """How far a cut-out's edges stray, as a share of the thing's size"""
    early_size: int = 32
    """Pixels along the side of the first cut-outs"""
    early_images: int = 160_000
    """So many images have them"""

    images: int = 320_000
    batch_size: int = 64
    lr: float = 2e-3
    warmup: int = 6_400
    """Images over which the rate rises"""
    tail: int = 100_000
    """Images at the end over which it falls"""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float | None = 20.0
    """The largest norm of the gradients"""
    ema: float = 0.05
    """The relative width of the power average that is the result"""

    seed: int = -2
    """Of the scenes, too: generators count theirs from 0, the evaluation's prompts are -1"""
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the arithmetic; bfloat16 where there is such by default"""
    workers: int = 0
    """Threads that think scenes out ahead; drawing them is the main thread's work"""
    log_images: int = 6_400
    save_images: int = 19_200
    keep: int = 2
    """Checkpoints that stay"""


def guard() -> Config:
    """The second oracle: plain networks, and scenes that the first has not seen."""
    return replace(Config(), folder=Path("out/guard"), model=GUARD, seed=-3)


def tiny() -> Config:
    """Seconds on a CPU."""
    trunk = replace(RESIDUAL.namer, widths=(8, 24), depth=1)
    model = replace(RESIDUAL, finder=trunk, namer=trunk)
    times = {"images": 1536, "early_images": 768, "warmup": 64, "tail": 512, "log_images": 128, "save_images": 512}
    return replace(Config(), model=model, sizes=(64,), batch_size=32, device="cpu", dtype="float32", **times)


class Truth(NamedTuple):
    """What the networks should say about the things of a batch."""

    rows: Tensor  # N: in which picture a thing is
    boxes: Tensor  # N 4: left, top, right, bottom, as shares of the picture
    concepts: Tensor  # N
    looks: Tensor  # N
    colours: Tensor  # N


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {
        "first": ("Residual networks", Config()),
        "guard": (str(guard.__doc__), guard()),
        "tiny": (str(tiny.__doc__), tiny()),
    }


def truth(scenes: Sequence[Sequence[Thing]], device: torch.device) -> Truth:
    """All things of all scenes, or those that are given of each."""
    things = [(row, thing) for row, shown in enumerate(scenes) for thing in shown]
    concepts = {concept: number for number, concept in enumerate(concept_names())}
    return Truth(
        torch.tensor([row for row, _ in things], device=device),
        torch.tensor([box(thing) for _, thing in things], device=device),
        torch.tensor([concepts[thing.concept] for _, thing in things], device=device),
        torch.tensor([look(thing) for _, thing in things], device=device),
        torch.tensor([COLOUR_NAMES.index(thing.colour) for _, thing in things], device=device),
    )


def finder_loss(cells: Cells, truth: Truth) -> Tensor:
    """Whether a cell holds a middle (focal loss, Lin et al. 2017, gamma 2), and where its box ends.  -> no axes

    Cells beside a middle are neither right nor wrong.
    """
    grid = cells.logits.shape[1]
    middle = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2 * grid  # N 2, in cells
    x, y = middle.long().clamp(0, grid - 1).unbind(1)
    here = truth.rows, y, x
    wanted = torch.zeros_like(cells.logits)
    wanted[here] = 1
    counts = (F.max_pool2d(wanted[:, None], 3, 1, 1)[:, 0] == 0) | (wanted == 1)  # B G G
    surprise = F.binary_cross_entropy_with_logits(cells.logits, wanted, reduction="none")
    doubt = (wanted - cells.logits.sigmoid()).abs().square()
    places = (counts * doubt * surprise).sum() / len(middle)
    offsets = F.l1_loss(_at(cells.offset, here), middle - torch.stack([x, y], 1))
    sizes = F.l1_loss(_at(cells.size, here), (truth.boxes[:, 2:] - truth.boxes[:, :2]).log())
    return places + offsets + sizes


def namer_loss(names: Names, truth: Truth) -> Tensor:
    """Two cross-entropies; behind the N things may stand cut-outs of nothing, which have no colour.  -> no axes"""
    count, (_, concepts, looks) = len(truth.concepts), names.look.shape
    known = truth.concepts * looks + truth.looks
    nothing = known.new_full((len(names.look) - count,), concepts * looks)
    logits = torch.cat([names.look.flatten(1), names.nothing], 1)  # N KL + 1
    naming = F.cross_entropy(logits, torch.cat([known, nothing]))
    return naming + F.cross_entropy(names.colour[:count], truth.colours)


def accuracies(names: Names, truth: Truth) -> dict[str, Tensor]:
    """How often the namer is right about a thing."""
    rows = torch.arange(len(truth.concepts), device=truth.concepts.device)
    looks = names.look[rows, truth.concepts].argmax(1)
    right = {
        "concept": names.concept[rows].argmax(1) == truth.concepts,
        "look": looks == truth.looks,
        "colour": names.colour[rows].argmax(1) == truth.colours,
    }
    return {name: answers.float().mean() for name, answers in right.items()}


def main(config: Config, sprites: Sprites | None = None) -> Path:
    """Train, or go on; returns the file that holds the oracle.

    Args:
        sprites: where drawings come from; the atlas by default.
    """
    with start(config) as run:
        model = Oracle(config.model).to(run.device)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportUnknownMemberType, reportCallIssue]
        average = ema.Average(model, ema.power(config.ema))
        optimizer = optim.adamw(model, config.betas, weight_decay=config.weight_decay)
        learner = Learner(model, optimizer, {"power": average}, batch_size=config.batch_size, clip=config.clip)
        state = State({"model": learner})
        run.restore(state)
        sprites = atlas(run.device) if sprites is None else sprites

        for scenes in run.batches(lambda index: scene(config.seed, index, "all"), state):
            searched = scenes[:: config.found_every]
            pictures = _pictures(searched, config, sprites)
            things = [shown.things[int(torch.randint(len(shown.things), ()))] for shown in scenes]
            size = config.early_size if state.images < config.early_images else config.model.namer_size
            crops = _cut_outs(scenes, things, size, config, sprites)
            with run.autocast():
                cells = model.find(torch.cat([pictures, _empty(pictures)]))
                names = model.name(torch.cat([crops, _empty(crops)]))
            named = truth([[thing] for thing in things], run.device)
            sought = truth([shown.things for shown in searched], run.device)
            finding = finder_loss(Cells(*(part.float() for part in cells)), sought)
            naming = namer_loss(Names(*(part.float() for part in names)), named)
            lr = optim.rate(config.lr, state.images, config.images, "constant", config.warmup, config.tail)
            state.step(finding + naming, lr)

            if run.every(config.log_images, state):
                run.log(state, finding=finding, naming=naming, **accuracies(names, named), norm=learner.norm, lr=lr)
            if run.every(config.save_images, state):
                run.save(state)
        return _export(run, average.model)


def _at(values: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """B 2 G G at N places -> N 2."""
    rows, y, x = places
    return values[rows, :, y, x]


def _pictures(scenes: Sequence[Scene], config: Config, sprites: Sprites) -> Tensor:
    """Whole, of one of the sizes, some of them disturbed.  -> B 3 H W"""
    return disturbed(_pixels(compose(scenes, _any_size(config), sprites)))


def _cut_outs(scenes: Sequence[Scene], things: Sequence[Thing], size: int, config: Config, sprites: Sprites) -> Tensor:
    """The window around a thing in each scene, not quite exact, as if cut out of a picture.  -> B 3 S S"""
    parts: dict[int, dict[int, Scene]] = defaultdict(dict)
    for row, (shown, thing) in enumerate(zip(scenes, things, strict=True)):
        left, top, side = _square(thing, config.wobble)
        pixels = PATCH * min(max(round(side * _any_size(config) / PATCH), 2), MOST_DRAWN // PATCH)
        parts[pixels][row] = window(shown, left, top, side)
    crops = torch.empty(len(scenes), 3, size, size, device=sprites(things[:1], 0).device)
    for pixels, windows in sorted(parts.items()):
        drawn = disturbed(_pixels(compose(list(windows.values()), pixels, sprites)))
        crops[list(windows)] = shrink(drawn, size)
    return crops


def _square(thing: Thing, wobble: float) -> tuple[float, float, float]:
    """Left, top and side of what is cut out for a thing whose box was found not quite exactly."""
    first, second = box(thing)[:2], box(thing)[2:]
    strays = wobble * torch.randn(2, 2)
    (left, right), (top, bottom) = (
        (low + (high - low) * float(stray[0]), high + (high - low) * float(stray[1]))
        for low, high, stray in zip(first, second, strays, strict=True)
    )
    side = MARGIN * max(right - left, bottom - top)
    return (left + right - side) / 2, (top + bottom - side) / 2, side


def _any_size(config: Config) -> int:
    return config.sizes[int(torch.randint(len(config.sizes), ()))]


def _pixels(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


def _empty(pixels: Tensor) -> Tensor:
    """A few pictures without a thing: blobs, and tiles of the given ones in a wrong order."""
    count = max(1, round(EMPTY * len(pixels)))
    stains = blobs((count + 1) // 2, pixels.shape[-1], pixels.device)
    return torch.cat([stains, shuffled_tiles(pixels[: count - len(stains)])])


def _export(run: Run, model: nn.Module) -> Path:
    assert isinstance(model, Oracle)
    path = run.folder / "oracle.safetensors"
    if run.is_main:
        write_oracle(path, model)
    return path


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
    leave()
