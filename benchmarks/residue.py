"""What a schedule's last level leaves of a picture, and what that does to the brightness of what is painted.

    python -m benchmarks.residue docs/images/ddpm_residue.svg

Sampling begins with noise alone.  Where the training's last level still has a share of the picture in it, sqrt(a_T),
this is a beginning that the network has never seen: it takes the missing share for a picture of middle grey, and what
it paints is drawn towards grey.  No network is needed to see it.  For pictures that had a mean and a covariance and no
other structure the best denoiser is a matrix, and what DDPM's sampler paints with it is known to the last digit:
whatever is wrong then is the schedule's fault.

Noise averages out over a picture, so what it hides at 8 pixels shows at 64.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.digits import halves
from marmo.data.scene_source import scene_source
from marmo.diffusion.noise import COSINE, DDPM, Betas, NoiseTable
from marmo.diffusion.samplers.euler import split
from marmo.diffusion.schedules import schedule
from marmo.recipes.ddpm import residue

SHOWN: Mapping[str, Betas] = {
    "linear, T = 1000": DDPM,
    "linear, T = 300": replace(DDPM, num_levels=300),
    "cosine, T = 300": replace(COSINE, num_levels=300),
}
COLOURS = ("#1b6ca8", "#c8402f", "#4c8c4a")
SCENES = 512


@dataclass(frozen=True)
class Brightness:
    """Of many pictures: the mean of their mean pixels in [0, 1], and how far these spread."""

    mean: float
    spread: float


def collections() -> dict[str, Tensor]:
    """Digits as they are and eight times as large, and Marmo's scenes.  N D each, in [-1, 1], float64"""
    digits = (halves()[0] * 2 - 1).reshape(-1, 8, 8)
    large = digits.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    draw = scene_source(0, 64, "train", torch.device("cpu"))
    scenes = torch.stack([draw(position)[0] for position in range(SCENES)]).double()
    sets = {"digits, 8 pixels": digits, "digits, 64 pixels": large, "scenes, 64 pixels": scenes}
    return {name: pictures.flatten(1) for name, pictures in sets.items()}


def painted(pictures: Tensor, betas: Betas) -> Brightness:
    """What DDPM's sampler paints with the exact denoiser of such pictures, all levels; exact, without a random number.

    Along the axes of their covariance the denoiser is one number each, and so is every step of the sampler: what is
    painted is normal, and its mean and variance follow from those of the beginning.
    """
    mean = pictures.mean(0)
    _, lengths, axes = torch.linalg.svd(pictures - mean, full_matrices=False)
    known = lengths**2 / (len(pictures) - 1)
    table = NoiseTable(betas)
    sigmas = schedule("normal", table, betas.num_levels).double()
    away, variance = -(axes @ mean), (1 + sigmas[0] ** 2).expand(len(axes))  # noise alone, seen from the mean
    for sigma, after in pairwise(sigmas):
        down, up = split(sigma, after, eta=1.0)
        seen = known / (known + sigma**2)
        kept = seen + down / sigma * (1 - seen)
        away, variance = kept * away, kept**2 * variance + up**2
    of_pixels = axes.mean(1)
    return Brightness((float(mean.mean() + away @ of_pixels) + 1) / 2, float((variance @ of_pixels**2).sqrt()) / 2)


def real(pictures: Tensor) -> Brightness:
    """The pictures themselves."""
    means = (pictures.mean(1) + 1) / 2
    return Brightness(float(means.mean()), float(means.std()))


def table() -> list[tuple[str, Brightness]]:
    """Every collection, and what is painted of it with each schedule."""
    rows: list[tuple[str, Brightness]] = []
    for name, pictures in collections().items():
        rows.append((name, real(pictures)))
        rows += [(schedule_name, painted(pictures, betas)) for schedule_name, betas in SHOWN.items()]
    return rows


def figure(rows: list[tuple[str, Brightness]]) -> str:
    """An SVG: how the picture's share falls, and how bright what is painted becomes."""
    body = "\n".join([*_curves(), *_bars(rows)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="920" height="{60 + 24 * len(rows)}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _curves() -> list[str]:
    left, top, width, height = 40, 40, 320, 200
    lines = [
        f'<text x="{left}" y="24" font-weight="bold">the share of the picture that is left, sqrt(a_t)</text>',
        f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="black"/>',
        f'<text x="{left - 8}" y="{top + 8}" text-anchor="end">1</text>',
        f'<text x="{left - 8}" y="{top + height}" text-anchor="end">0</text>',
        f'<text x="{left}" y="{top + height + 18}">t = 0</text>',
        f'<text x="{left + width}" y="{top + height + 18}" text-anchor="end">t = T</text>',
    ]
    for index, ((name, betas), colour) in enumerate(zip(SHOWN.items(), COLOURS, strict=True)):
        roots = betas.alphas().sqrt().tolist()
        places = [(left + width * t / (len(roots) - 1), top + height * (1 - root)) for t, root in enumerate(roots)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places[::10] + places[-1:])
        text = f"{name}: {residue(betas):.2%} at the end"
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{left}" y="{top + height + 44 + 20 * index}" fill="{colour}">{text}</text>')
    return lines


def _bars(rows: list[tuple[str, Brightness]]) -> list[str]:
    left, top, width = 560, 40, 240  # the axis is the whole range from black to white
    lines = [f'<text x="{left - 130}" y="24" font-weight="bold">the brightness of what is painted: mean, spread</text>']
    kept = rows[0][1]
    for index, (name, value) in enumerate(rows):
        is_real, y = name not in SHOWN, top + 24 * index
        kept = value if is_real else kept
        x, low, high = (
            left + width * place for place in (value.mean, kept.mean - kept.spread, kept.mean + kept.spread)
        )
        spread, colour = width * value.spread, "black" if is_real else COLOURS[list(SHOWN).index(name)]
        weight = ' font-weight="bold"' if is_real else ""
        lines += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end"{weight}>{name}</text>',
            f'<rect x="{low:.1f}" y="{y}" width="{high - low:.1f}" height="24" fill="#e6eaed"/>',
            f'<path d="M{x - spread:.1f} {y + 9}H{x + spread:.1f}" stroke="{colour}" stroke-width="3"/>',
            f'<circle cx="{x:.1f}" cy="{y + 9}" r="5" fill="{colour}"/>',
            f'<text x="{left + width + 8}" y="{y + 13}">{value.mean:.3f} ± {value.spread:.3f}</text>',
        ]
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path)
    said = parser.parse_args()
    found = table()
    said.figure.parent.mkdir(parents=True, exist_ok=True)
    said.figure.write_text(figure(found))
    for schedule_name, noise_levels in SHOWN.items():
        print(f"{schedule_name}: residue {residue(noise_levels):.4f}")
    for name, value in found:
        print(f"{name}: {value.mean:.4f} +- {value.spread:.4f}")
