"""The page of pictures before and after for docs/editing.md: `python -m benchmarks.editing`.

Without models it paints with the bundled one, if there is one, and else with stand-ins of random weights, which know
nothing: what they paint anew is texture, and what matters is where it begins and ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

import marmo
from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.data.atlas import drawn_now
from marmo.data.scenes import batch
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest, Inpaint, Outpaint
from marmo.weights.kinds import Task

SIDE, CELL, GAP, TEXT = 256, 256, 8, 18
"""Pixels: of the picture before, of a picture on the page, between two, and of a line below."""
PROMPT = "a red fox in the snow"
MASKS: Mapping[str, tuple[int, int, int, int]] = {"middle": (72, 88, 184, 200), "small": (150, 60, 190, 100)}
"""Left, top, right and bottom of ellipses."""


@dataclass(frozen=True)
class Case:
    """One pair of pictures."""

    title: str
    request: ImageRequest
    mask: str | None = "middle"
    task: Task = "paint"


CASES: Sequence[Case] = (
    Case("mask, feather 4", ImageRequest(strength=1.0)),
    Case("feather 0", ImageRequest(strength=1.0, inpaint=Inpaint(feather=0))),
    Case("feather 16", ImageRequest(strength=1.0, inpaint=Inpaint(feather=16))),
    Case("grow 24, feather 0", ImageRequest(strength=1.0, inpaint=Inpaint(grow=24, feather=0))),
    Case("invert", ImageRequest(strength=1.0, inpaint=Inpaint(invert=True))),
    Case("fill original, strength 0.4", ImageRequest(strength=0.4)),
    Case("fill blurred, strength 0", ImageRequest(strength=0.0, inpaint=Inpaint(fill="blurred"))),
    Case("fill blank, strength 0.4", ImageRequest(strength=0.4, inpaint=Inpaint(fill="blank"))),
    Case("soft, a mask from black to white", ImageRequest(strength=1.0, inpaint=Inpaint(soft=True)), "ramp"),
    Case("the small part alone, enlarged", ImageRequest(strength=1.0, inpaint=Inpaint(area="masked")), "small"),
    Case("outpaint left 64, top 32", ImageRequest(outpaint=Outpaint(left=64, top=32)), None),
    Case(
        "outpaint right 96, soft, feather 12",
        ImageRequest(outpaint=Outpaint(right=96), inpaint=Inpaint(soft=True, feather=12)),
        None,
    ),
    Case("a model for inpainting (9 channels)", ImageRequest(), task="inpaint"),
    Case("the same, outpaint bottom 64", ImageRequest(outpaint=Outpaint(bottom=64)), None, "inpaint"),
    Case("a model for editing (8 channels)", ImageRequest(), None, "edit"),
    Case("the same under a mask", ImageRequest(), task="edit"),
)


@dataclass(frozen=True)
class Config:
    """Paint the page."""

    output: tyro.conf.Positional[Path] = Path("docs/images/editing.webp")
    paint: Path | None = None
    """A model for everything; by default the bundled one, else a stand-in"""
    inpaint: Path | None = None
    """A model for inpainting"""
    edit: Path | None = None
    """A model for editing by instruction"""
    steps: int = 8
    columns: int = 4
    """Pairs side by side"""


def source() -> Image.Image:
    """A scene of the corpus."""
    pixels = batch(3, 5, 1, SIDE, sprites=drawn_now(torch.device("cpu"))).pictures[0]
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def mask_of(name: str) -> Image.Image:
    """Ellipses, or all shades from left to right."""
    if name == "ramp":
        return Image.linear_gradient("L").rotate(90).resize((SIDE, SIDE))
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse(MASKS[name], fill=255)
    return mask


def png(picture: Image.Image) -> bytes:
    """A file's bytes."""
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def tinted(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """The picture before, red where it is marked."""
    if mask is None:
        return picture
    tint = Image.blend(picture, Image.new("RGB", picture.size, "red"), 0.6)
    return Image.composite(tint, picture, mask)


def painted(case: Case, model: LatentDiffusion, picture: Image.Image, steps: int) -> tuple[Image.Image, Image.Image]:
    """Before and after."""
    mask = None if case.mask is None else mask_of(case.mask)
    given = {"init_image": png(picture), "mask": None if mask is None else png(mask)}
    request = case.request.model_copy(update={"prompt": PROMPT, "seed": 1, "steps": steps, **given})
    return tinted(picture, mask), model.generate(request).images[0]


def sheet(pairs: Sequence[tuple[str, Image.Image, Image.Image]], columns: int) -> Image.Image:
    """Pairs with their titles below."""
    width, height = 2 * CELL + 3 * GAP, CELL + TEXT + 2 * GAP
    page = Image.new("RGB", (columns * width, -(-len(pairs) // columns) * height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for number, (title, before, after) in enumerate(pairs):
        row, column = divmod(number, columns)
        for index, picture in enumerate((before, after)):
            shown = picture.copy()
            shown.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(shown, (column * width + GAP + index * (CELL + GAP), row * height + GAP))
        pen.text((column * width + GAP, row * height + GAP + CELL + 2), title, "black", font)
    return page


def bundled() -> Path | None:
    """The model that comes with Marmo, if one does."""
    return next((found.path for found in catalog.models() if found.origin == "bundled" and found.use == "paint"), None)


def models(config: Config, folder: Path) -> dict[Task, LatentDiffusion]:
    """Those that were given, and stand-ins for the others."""
    given: list[tuple[Task, Path | None]] = [
        ("paint", config.paint or bundled()),
        ("inpaint", config.inpaint),
        ("edit", config.edit),
    ]
    loaded: dict[Task, LatentDiffusion] = {}
    for task, file in given:
        loaded[task] = marmo.load(file or random_checkpoint(folder / f"{task}.safetensors", task=task))
    return loaded


def main(config: Config) -> None:
    """Paint all of them and write the page."""
    picture = source()
    with TemporaryDirectory() as folder:
        loaded = models(config, Path(folder))
        pairs = [(case.title, *painted(case, loaded[case.task], picture, config.steps)) for case in CASES]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    sheet(pairs, config.columns).save(config.output, quality=80)
    print(config.output)


if __name__ == "__main__":
    main(tyro.cli(Config))
