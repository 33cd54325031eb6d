"""Scenes to pixels with tensor operations alone, on whatever device the sprites are.

Things are drawn back to front; at every depth, those that shrink alike are drawn together, from sprites not much larger
than they will be, so that small things are smooth.

Shapes: B things, H W the picture's side, S the sprite's side.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import cos, floor, log2, sin

import torch
from torch import Tensor
from torch.nn import functional as F

from marmo.data.atlas import LEVELS, PIXELS, Sprites
from marmo.data.colours import COLOURS, recolour, targets
from marmo.data.corpus import corpus
from marmo.data.scene import Scene, Thing


def compose(scenes: Sequence[Scene], size: int, sprites: Sprites) -> Tensor:
    """Pictures of `size` pixels a side.  -> B 3 H W, uint8, on the sprites' device"""
    device = sprites([scenes[0].things[0]], LEVELS - 1).device
    canvas = _backgrounds(scenes, size).to(device)
    for depth in range(max(len(scene.things) for scene in scenes)):
        groups: dict[int, list[int]] = defaultdict(list)
        for row, scene in enumerate(scenes):
            if depth < len(scene.things):
                groups[_level(scene.things[depth], size)].append(row)
        for level, rows in sorted(groups.items()):
            things = [scenes[row].things[depth] for row in rows]
            layer = _layer(things, sprites(things, level).float() / 255, size)
            where = torch.tensor(rows, device=device)
            canvas[where] = layer[:, :3] + canvas[where] * (1 - layer[:, 3:])
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8)


def _backgrounds(scenes: Sequence[Scene], size: int) -> Tensor:
    """B 3 H W, float32, on the CPU."""
    backgrounds = [scene.background for scene in scenes]
    top, bottom = (
        torch.tensor(ends)[:, :, None] / 255 for ends in zip(*((b.top, b.bottom) for b in backgrounds), strict=True)
    )
    y = ((torch.arange(size) + 0.5) / size).expand(len(scenes), 1, size)
    horizon = torch.tensor([b.horizon for b in backgrounds])[:, None, None]
    is_ground = torch.tensor([b.kind == "ground" for b in backgrounds])[:, None, None]
    weight = torch.where(is_ground, ((y - horizon) * size + 0.5).clamp(0, 1), y)
    return torch.lerp(top, bottom, weight)[..., None].expand(-1, -1, -1, size).contiguous()


def _level(thing: Thing, size: int) -> int:
    """How often a sprite can be halved and still has as many pixels as the picture shows of it."""
    return min(max(floor(log2(PIXELS / (thing.side * size))), 0), LEVELS - 1)


def _layer(things: Sequence[Thing], sprites: Tensor, size: int) -> Tensor:
    """The sprites, coloured, where they belong.  sprites B 4 s s -> B 4 H W, alpha multiplied in"""
    turned = torch.tensor([_affine(thing) for thing in things], device=sprites.device)
    grid = F.affine_grid(turned, [len(things), 4, size, size], align_corners=False)
    return F.grid_sample(_coloured(things, sprites), grid, align_corners=False)


def _affine(thing: Thing) -> list[list[float]]:
    """From the picture's plane [-1, 1] to the sprite's: move the centre, turn back, mirror, enlarge."""
    c, s, mirror = cos(thing.angle) / thing.side, sin(thing.angle) / thing.side, -1 if thing.mirrored else 1
    x, y = 1 - 2 * thing.x, 1 - 2 * thing.y
    return [[mirror * c, mirror * s, mirror * (c * x + s * y)], [-s, c, c * y - s * x]]


def _coloured(things: Sequence[Thing], sprites: Tensor) -> Tensor:
    rows = [row for row, thing in enumerate(things) if thing.colour is not None]
    if not rows:
        return sprites
    where = torch.tensor(rows, device=sprites.device)
    chosen = [things[row] for row in rows]
    side, alpha = sprites.shape[-1], sprites[where, 3:]
    rgb = (sprites[where, :3] / alpha.clamp(min=1e-4)).clamp(0, 1)
    painted = _paint(chosen, rgb.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(len(rows), 3, side, side)
    return sprites.index_copy(0, where, torch.cat([painted * alpha, alpha], 1))


def _paint(things: Sequence[Thing], rgb: Tensor) -> Tensor:
    """rgb B N 3 -> B N 3; shapes take the colour where they are black, drawings where their hue is."""
    names = list(COLOURS)
    numbers = torch.tensor([names.index(thing.colour or "") for thing in things])
    flat = (torch.tensor([colour.rgb for colour in COLOURS.values()]) / 255)[numbers].to(rgb.device)
    goals = targets()[numbers].to(rgb.device)
    centres = torch.tensor([_centre(thing) for thing in things], device=rgb.device)
    is_shape = torch.tensor([thing.is_shape for thing in things], device=rgb.device)[:, None, None]
    tinted = torch.lerp(flat[:, None], torch.ones_like(rgb), rgb)
    return torch.where(is_shape, tinted, recolour(rgb, centres, goals))


def _centre(thing: Thing) -> tuple[float, float, float]:
    """OKLab of the hue that is replaced; any will do for a shape."""
    if thing.style is None:
        return 0.5, 0.1, 0.1
    colour = corpus()[thing.concept].looks[thing.style].colour
    assert colour is not None, f"{thing.concept} has no colour to replace in {thing.style}"
    return colour
