"""Oracle: two small networks learn to find things in pictures and to say what they are.

    python -m marmo.recipes.oracle first --folder out/oracle
    python -m marmo.recipes.oracle guard --folder out/guard          # another architecture, another seed

The pictures are scenes, whose truth is known exactly, of all combinations (split "all"): a judge must know what a
painter has never seen.  They are blurred, made noisy and squeezed as a decoder would, and between them stand blobs,
noise and shuffled pictures in which there is nothing to find, so that the judge does not see a cat in every stain.
The finder learns points and boxes (Zhou et al. 2019, https://arxiv.org/abs/1904.07850, with one positive cell instead
of a splash), the namer learns from cut-outs around true boxes, moved a little.

Hardware and numbers: docs/evaluation.md.

Shapes: B scenes, N things in them, G cells along a side, S side of a picture.
"""

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
from marmo.data.scene import Scene
from marmo.data.scenes import scene
from marmo.evaluate.disturb import blobs, disturbed, shuffled_tiles
from marmo.evaluate.oracle import COLOUR_NAMES, STYLE_NAMES, box, concept_names, write_oracle
from marmo.models.oracle import GUARD, RESIDUAL, Cells, Names, Oracle, OracleConfig, cut_out
from marmo.train import ema, optim
from marmo.train.run import Run, leave, start
from marmo.train.state import Learner, State

EMPTY = 0.125
"""So many pictures are added to a batch in which there is nothing."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on."""

    folder: Path = Path("out/oracle")
    """Where checkpoints, log and result go; a folder that has them goes on"""
    model: OracleConfig = RESIDUAL
    sizes: tuple[int, ...] = (96, 128)
    """Sides of the pictures, in pixels; each batch has one of them"""
    found_every: int = 4
    """The finder learns from every so many-th picture: it has far less to learn than the namer"""
    wobble: float = 0.06
    """How far a cut-out's edges stray, as a share of the thing's size"""

    images: int = 400_000
    batch_size: int = 32
    lr: float = 3e-3
    schedule: optim.Schedule = "cosine"
    warmup: int = 4_000
    """Images over which the rate rises"""
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
    log_images: int = 3_200
    save_images: int = 9_600
    keep: int = 2
    """Checkpoints that stay"""


def guard() -> Config:
    """The second oracle: transformers, and scenes that the first has not seen."""
    return replace(Config(), folder=Path("out/guard"), model=GUARD, found_every=2, lr=1e-3, seed=-3)


def tiny() -> Config:
    """Seconds on a CPU."""
    trunk = replace(RESIDUAL.namer, widths=(8, 24), depth=1)
    model = replace(RESIDUAL, finder=trunk, namer=trunk)
    few = {"images": 768, "batch_size": 16, "warmup": 64, "log_images": 128, "save_images": 256}
    return replace(Config(), model=model, sizes=(64,), device="cpu", dtype="float32", **few)


class Truth(NamedTuple):
    """What the networks should say about the things of a batch."""

    rows: Tensor  # N: in which picture a thing is
    boxes: Tensor  # N 4: left, top, right, bottom, as shares of the picture
    concepts: Tensor  # N
    styles: Tensor  # N
    colours: Tensor  # N

    def every(self, step: int) -> "Truth":
        """Of every `step`-th picture alone."""
        stays = self.rows % step == 0
        return Truth(self.rows[stays] // step, *(part[stays] for part in self[1:]))


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {
        "first": ("Residual networks", Config()),
        "guard": (str(guard.__doc__), guard()),
        "tiny": (str(tiny.__doc__), tiny()),
    }


def truth(scenes: Sequence[Scene], device: torch.device) -> Truth:
    """All things of all scenes."""
    things = [(row, thing) for row, scene in enumerate(scenes) for thing in scene.things]
    concepts = {concept: number for number, concept in enumerate(concept_names())}
    return Truth(
        torch.tensor([row for row, _ in things], device=device),
        torch.tensor([box(thing) for _, thing in things], device=device),
        torch.tensor([concepts[thing.concept] for _, thing in things], device=device),
        torch.tensor([STYLE_NAMES.index(thing.style) for _, thing in things], device=device),
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
    """Three cross-entropies; behind the N things may stand cut-outs of nothing, which have no style or colour."""
    count = len(truth.concepts)
    nothing = truth.concepts.new_full((len(names.concept) - count,), names.concept.shape[1] - 1)
    return (
        F.cross_entropy(names.concept, torch.cat([truth.concepts, nothing]))
        + F.cross_entropy(names.style[:count], truth.styles)
        + F.cross_entropy(names.colour[:count], truth.colours)
    )


def accuracies(names: Names, truth: Truth) -> dict[str, Tensor]:
    """How often the namer is right about a thing."""
    count = len(truth.concepts)
    pairs = {
        "concept": (names.concept, truth.concepts),
        "style": (names.style, truth.styles),
        "colour": (names.colour, truth.colours),
    }
    return {name: (logits[:count].argmax(1) == right).float().mean() for name, (logits, right) in pairs.items()}


def main(config: Config, sprites: Sprites | None = None) -> Path:
    """Train, or go on; returns the file that holds the oracle.

    Args:
        sprites: where drawings come from; the atlas by default.
    """
    with start(config) as run:
        model = Oracle(config.model).to(run.device)
        average = ema.Average(model, ema.power(config.ema))
        optimizer = optim.adamw(model, config.betas, weight_decay=config.weight_decay)
        learner = Learner(model, optimizer, {"power": average}, batch_size=config.batch_size, clip=config.clip)
        state = State({"model": learner})
        run.restore(state)
        sprites = atlas(run.device) if sprites is None else sprites

        for scenes in run.batches(lambda index: scene(config.seed, index, "all"), state):
            right = truth(scenes, run.device)
            size = config.sizes[int(torch.randint(len(config.sizes), ()))]
            pixels = disturbed(compose(scenes, size, sprites).float() / 127.5 - 1)
            empty = _empty(pixels, max(1, round(EMPTY * len(scenes))))
            with run.autocast():
                cells = model.find(torch.cat([pixels[:: config.found_every], empty[:: config.found_every]]))
                names = model.name(_cut_outs(pixels, empty, right, config))
            finding = finder_loss(Cells(*(part.float() for part in cells)), right.every(config.found_every))
            naming = namer_loss(Names(*(part.float() for part in names)), right)
            lr = optim.rate(config.lr, state.images, config.images, config.schedule, config.warmup)
            state.step(finding + naming, lr)

            if run.every(config.log_images, state):
                run.log(state, finding=finding, naming=naming, **accuracies(names, right), norm=learner.norm, lr=lr)
            if run.every(config.save_images, state):
                run.save(state)
        return _export(run, average.model)


def _at(values: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """B 2 G G at N places -> N 2."""
    rows, y, x = places
    return values[rows, :, y, x]


def _empty(pixels: Tensor, count: int) -> Tensor:
    """Pictures without a thing: blobs, and tiles of real pictures in a wrong order."""
    stains = blobs((count + 1) // 2, pixels.shape[-1], pixels.device)
    return torch.cat([stains, shuffled_tiles(pixels[: count - len(stains)])])


def _cut_outs(pixels: Tensor, empty: Tensor, truth: Truth, config: Config) -> Tensor:
    """Every thing, cut out not quite exactly, then a piece of every empty picture.  -> N + E 3 S S"""
    size = config.model.namer_size
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).repeat(1, 2)  # N 4
    stray = config.wobble * sides * torch.randn_like(truth.boxes)
    things = cut_out(pixels, truth.rows, truth.boxes + stray, size)
    places = torch.rand(len(empty), 2, device=pixels.device) * 0.4
    anywhere = torch.cat([places, places + 0.3 + 0.3 * torch.rand_like(places)], 1)
    return torch.cat([things, cut_out(empty, torch.arange(len(empty), device=pixels.device), anywhere, size)])


def _export(run: Run, model: nn.Module) -> Path:
    assert isinstance(model, Oracle)
    path = run.folder / "oracle.safetensors"
    if run.is_main:
        write_oracle(path, model)
    return path


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
    leave()
