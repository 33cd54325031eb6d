"""What DDPM learns from scikit-learn's 1,797 digits of 8 x 8 pixels, in numbers that have a scale.

    python -m benchmarks.digits out/digits                  # write the pictures, train, paint, measure
    python -m benchmarks.digits out/digits --levels 300     # the tutorials' T, and the residue that it leaves

Half of the digits are learnt from, the other half is what the painted ones are compared with.  The distance is
Frechet's between raw pixels in [0, 1] (64 numbers, so 899 pictures suffice); how far is far, two others say: the
learnt half has 0.084 (nothing that learns is nearer), and the best full Gaussian, clipped, 0.28.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from marmo.catalog import open_for
from marmo.evaluate.distances import frechet, moments
from marmo.evaluate.neighbours import nearest
from marmo.pipelines.pixel_diffusion import PixelDiffusion
from marmo.recipes import ddpm
from marmo.request import ImageRequest

TRAIN = 898
SAMPLES = 899
AT_ONCE = 64
NEAR = 0.3
"""A distance below which a picture is a copy."""


@dataclass(frozen=True)
class Measured:
    """Of painted digits, against the half that nobody learnt from."""

    frechet: float
    neighbour: float
    """The mean distance to the nearest learnt picture; of the other half it is 1.11"""
    copies: float
    """The share of those nearer than `NEAR`"""
    brightness: float
    """The mean of all pixels in [0, 1]"""


def halves() -> tuple[Tensor, Tensor]:
    """The digits in [0, 1]: 898 to learn from and 899 others.  N 64"""
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().data / 16)
    order = np.random.RandomState(0).permutation(len(pixels))
    return pixels[order[:TRAIN]], pixels[order[TRAIN:]]


def write_digits(folder: Path) -> tuple[Path, Path]:
    """Both halves as PNG files, as a user would have them."""
    places = folder / "train", folder / "test"
    for place, half in zip(places, halves(), strict=True):
        place.mkdir(parents=True, exist_ok=True)
        levels = (half * 255).round().to(torch.uint8).reshape(-1, 8, 8).numpy()
        for index, picture in enumerate(levels):
            Image.fromarray(picture).save(place / f"{index:04d}.png")
    return places


def painted(model: PixelDiffusion, count: int, steps: int, sampler: str) -> Tensor:
    """Pictures in [0, 1], as they stand in files.  -> count 64"""
    rows: list[np.ndarray] = []
    for seed in range(0, count, AT_ONCE):
        asked = {"num_images": min(AT_ONCE, count - seed), "seed": seed, "steps": steps, "sampler": sampler}
        if sampler != "ddpm":
            asked["schedule"] = "karras"
        pictures = model.generate(ImageRequest.model_validate(asked)).images
        rows += [np.asarray(picture.convert("L"), dtype=np.float64).reshape(-1) / 255 for picture in pictures]
    return torch.from_numpy(np.stack(rows))


def measured(pictures: Tensor) -> Measured:
    """What painted digits N 64 are worth."""
    train, test = halves()
    away = nearest(pictures, train)[0][:, 0]
    distance = frechet(moments(test), moments(pictures)).value
    return Measured(distance, float(away.mean()), float((away < NEAR).double().mean()), float(pictures.mean()))


def main(config: ddpm.Config, full: bool) -> None:
    """Train, paint, tell."""
    train, test = write_digits(config.folder / "digits")
    began, used = time.monotonic(), time.process_time()
    place = ddpm.main(replace(config, data=train, heldout=test))
    print(f"{config.images:,} images in {time.monotonic() - began:.0f} s, {time.process_time() - used:.0f} s of a core")
    print(f"residue {ddpm.residue(ddpm.levels(config)):.4f} with T = {config.levels}, {config.noise}")
    print(f"the other half: {measured(halves()[1])}")
    model = open_for(ImageRequest(model=str(place)), "cpu", "float32")
    assert isinstance(model, PixelDiffusion)
    for sampler, steps in (("dpmpp_2m", 25), *([("ddpm", config.levels)] if full else [])):
        began = time.process_time()
        rows = painted(model, SAMPLES, steps, sampler)
        print(f"{sampler}, {steps} steps: {measured(rows)}, {time.process_time() - began:.0f} s of a core")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", type=int, default=1000)
    parser.add_argument("--noise", choices=list(ddpm.BETAS), default="linear")
    parser.add_argument("--images", type=int, default=ddpm.digits().images)
    parser.add_argument("--full", action="store_true", help="paint with all levels, too, as the paper does")
    said = parser.parse_args()
    usual = replace(ddpm.digits(), folder=said.folder, levels=said.levels, noise=said.noise, images=said.images)
    main(usual, said.full)
