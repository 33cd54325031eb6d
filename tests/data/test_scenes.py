"""Scenes are the same everywhere, things stand where the graph says, and pictures show it."""

from collections import Counter
from hashlib import sha256

import pytest
import torch
from torch import Tensor

from marmo.data.atlas import Sprites, drawn_now
from marmo.data.colours import COLOURS, targets, to_oklab
from marmo.data.compose import compose
from marmo.data.corpus import STYLES, corpus
from marmo.data.dice import Dice
from marmo.data.layout import reach
from marmo.data.prompts import prompts
from marmo.data.scene import Background, Scene, Thing
from marmo.data.scenes import batch, render, sample, scene
from marmo.data.sheet import Sheet

GOLDEN_SCENES = "0962ce42daca8272"
GOLDEN_CAPTIONS = "f6a6e76a6a019a0e"
GOLDEN_MEANS = [90.2, 89.8, 105.0, 105.2, 124.3, 101.8, 103.7, 94.2, 177.9, 195.5, 209.6, 216.5]


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return drawn_now(torch.device("cpu"))


def test_scene_graphs_are_golden() -> None:
    """Exact on every machine; a change here is a new corpus version."""
    text = "\n".join(repr(scene(0, index)) for index in range(100))
    assert sha256(text.encode()).hexdigest()[:16] == GOLDEN_SCENES


def test_captions_are_golden() -> None:
    text = "\n".join(sample(0, index).caption.text for index in range(100))
    assert sha256(text.encode()).hexdigest()[:16] == GOLDEN_CAPTIONS


@pytest.mark.long
def test_a_batch_is_its_pictures(sprites: Sprites) -> None:
    together = batch(3, 10, 12, 96, sprites=sprites)
    for number, made in enumerate(together.samples):
        alone = render(made.scene, 96)
        assert (alone.int() - together.pictures[number].int()).abs().max() <= 1
        assert made == sample(3, 10 + number)


def test_pictures_are_golden_within_rounding(sprites: Sprites) -> None:
    """Means over quarters of three pictures: rasterisers and processors differ by less."""
    pictures = batch(0, 0, 3, 64, sprites=sprites).pictures.float()
    means = torch.nn.functional.avg_pool2d(pictures, 32)[:, 1].flatten().tolist()
    assert means == pytest.approx(GOLDEN_MEANS, abs=1.5)


def test_kinds_have_their_shares() -> None:
    kinds = Counter("shape" if s.things[0].is_shape else s.kind for s in (scene(4, index) for index in range(2000)))
    for kind, share in {"single": 0.45, "pair": 0.25, "count": 0.15, "shape": 0.15}.items():
        assert kinds[kind] / 2000 == pytest.approx(share, abs=0.03)


def test_things_are_inside_and_apart() -> None:
    for index in range(1500):
        shown = scene(7, index)
        for number, thing in enumerate(shown.things):
            across, down = reach(thing)
            assert across <= thing.x <= 1 - across and down <= thing.y <= 1 - down
            for other in shown.things[:number]:
                far, deep = reach(other)
                assert abs(thing.x - other.x) > across + far - 0.03 or abs(thing.y - other.y) > down + deep - 0.03
        if shown.kind == "pair":
            first, second = shown.things
            gap = second.x - first.x if shown.relation == "left" else second.y - first.y
            drift = second.y - first.y if shown.relation == "left" else second.x - first.x
            assert gap > 0.4 > abs(drift)


@pytest.mark.long
def test_shapes_have_their_colour_and_their_place(sprites: Sprites) -> None:
    """Pixels of a shape's own colour are centred where the graph puts them; so a relation is what pixels show."""
    checked = 0
    for index in range(3000):
        shown = scene(8, index)
        colours = {thing.colour for thing in shown.things}
        if not shown.things[0].is_shape or len(colours) < len(shown.things):
            continue
        picture = batch(8, index, 1, 128, sprites=sprites).pictures[0]
        centres = [_centre(picture, shown, number) for number in range(len(shown.things))]
        for (x, y), thing in zip(centres, shown.things, strict=True):
            if thing.concept in ("circle", "square", "hexagon", "ring"):  # whose middle is that of their box
                assert x == pytest.approx(thing.x, abs=0.03) and y == pytest.approx(thing.y, abs=0.03)
        if shown.relation:
            axis = 0 if shown.relation == "left" else 1
            assert centres[0][axis] < centres[1][axis] - 0.2
        checked += 1
        if checked == 60:
            break
    assert checked == 60


@pytest.mark.long
def test_recoloured_drawings_show_their_colour(sprites: Sprites) -> None:
    """Of the eleven colours, the one that was asked for is nearest to most of the ink: in 0.925 of 1,100 cases."""
    dice, right, magenta = Dice("recolour"), 0, (255, 0, 255)
    behind = Background("plain", "white", magenta, magenta)
    looks = [(c.id, style) for c in corpus().concepts for style in STYLES if c.looks[style].colour]
    for concept, style in (dice.choice(looks) for _ in range(30)):
        things = [Thing(concept, style, colour, None, 0.5, 0.5, 0.92) for colour in COLOURS]
        pictures = compose([Scene("single", (thing,), behind) for thing in things], 48, sprites) / 255
        alpha = sprites(things[:1], 0)[:, 3:].float()
        ink = torch.nn.functional.interpolate(alpha, (48, 48))[0, 0] > 250
        pixels = to_oklab(pictures.permute(0, 2, 3, 1)[:, ink])
        nearest = torch.cdist(pixels, targets().expand(len(COLOURS), -1, -1)).argmin(-1)
        right += int((nearest.mode(1).values == torch.arange(len(COLOURS))).sum())
    assert right / (30 * len(COLOURS)) > 0.85


def test_prompts_are_different_and_complete() -> None:
    seen = prompts("seen", per_tag=10)
    assert Counter(prompt.record["tag"] for prompt in seen) == dict.fromkeys(
        ("single_object", "colors", "position", "counting"), 10
    )
    assert len({prompt.en for prompt in seen}) == 40 and prompts("seen", per_tag=10) == seen
    assert all(len(prompt.record["include"][0]["class"]) for prompt in prompts("heldout_count", 5))
    assert all(prompt.style for prompt in prompts("heldout_style", 5))


def test_a_sheet_is_drawn(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "sheet.png"
    Sheet(path, columns=3, rows=2, size=64).run()
    assert path.stat().st_size > 1000


def _centre(picture: Tensor, shown: Scene, number: int) -> tuple[float, float]:
    thing = shown.things[number]
    assert thing.colour is not None
    colour = torch.tensor(COLOURS[thing.colour].rgb)[:, None, None]
    mine = ((picture.int() - colour).abs().amax(0) <= 6).float()
    across, down = reach(thing)
    grid = (torch.arange(128) + 0.5) / 128
    near = ((grid - thing.x).abs() < across + 0.05)[None] & ((grid - thing.y).abs() < down + 0.05)[:, None]
    mine = mine * near
    total = float(mine.sum())
    assert total > 0.05 * 128**2 * across * down, (thing, total)
    return float((mine.sum(0) * grid).sum()) / total, float((mine.sum(1) * grid).sum()) / total
