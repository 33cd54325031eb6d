"""Seamless pictures: what is rolled before the networks is rolled behind them, and edges fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from marmo.diffusion.sources import TorchCpu
from marmo.nn.engine import Conv2d, Wrap, pad, wrapped
from marmo.pipelines import first_stage
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.tiles import Grid, in_tiles
from marmo.request import ImageRequest

BOTH, ACROSS = Wrap(True, True), Wrap(width=True)


def near(left: torch.Tensor, right: torch.Tensor) -> bool:
    return bool((left - right).abs().max() <= 1e-4 * right.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize(("wrap", "axes"), [(BOTH, (2, 3)), (ACROSS, (3,)), (Wrap(height=True), (2,))])
def test_rolling_the_latents_rolls_what_the_networks_see(model: LatentDiffusion, wrap: Wrap, axes: tuple[int, ...]):
    """By what the U-Net halves without rest; not so without the wrap."""
    x, t = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    tokens = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1))
    by = (4,) * len(axes)
    context = model.unet.project(tokens)

    def both(around: Wrap) -> tuple[torch.Tensor, torch.Tensor]:
        with wrapped(model.unet, around):
            return model.unet(x.roll(by, axes), t, context), model.unet(x, t, context).roll(by, axes)

    assert near(*both(wrap))
    assert not near(*both(Wrap()))


@torch.inference_mode()
def test_rolling_the_latents_rolls_the_pixels(model: LatentDiffusion):
    z = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels = first_stage.decode(model.vae, z, BOTH)
    assert near(first_stage.decode(model.vae, z.roll((2, 1), (2, 3)), BOTH), pixels.roll((16, 8), (2, 3)))
    latents = first_stage.encode(model.vae, pixels, BOTH).mean
    assert near(first_stage.encode(model.vae, pixels.roll((16, 8), (2, 3)), BOTH).mean, latents.roll((2, 1), (2, 3)))
    assert not near(first_stage.encode(model.vae, pixels.roll(8, 3)).mean, latents.roll(1, 3))


def test_after_it_the_networks_are_as_before(model: LatentDiffusion):
    with pytest.raises(RuntimeError, match="stop"), wrapped(model.unet, BOTH):
        raise RuntimeError("stop")
    assert all(module.wrap == Wrap() for module in model.unet.modules() if isinstance(module, Conv2d))


@torch.inference_mode()
def test_tiles_go_on_over_the_edge():
    """A function whose tiles see their surroundings, over a picture that wraps: rolled or not, the same."""
    kernel = torch.ones(1, 1, 5, 5) / 25

    def blur(x: torch.Tensor, wrap: Wrap) -> torch.Tensor:
        return torch.nn.functional.conv2d(pad(x, 2, 2, 2, 2, wrap), kernel)

    grid = Grid(whole=0, tile=16, overlap=8, inner=1, outer=1)
    x = torch.rand(1, 1, 12, 40, generator=torch.Generator().manual_seed(0))
    wanted = blur(x, BOTH)
    tiled = in_tiles(blur, x, 1, grid, BOTH)
    assert (tiled - wanted)[
        ..., 2:-2
    ].abs().max() < 0.1  # a tile knows nothing beyond its ends, and counts little there
    assert near(in_tiles(blur, x.roll(8, 3), 1, grid, BOTH), tiled.roll(8, 3))  # the edge is a place like others
    steady = torch.full((1, 1, 12, 40), 0.5)
    assert in_tiles(lambda part, wrap: part, steady, 1, grid, BOTH).allclose(steady)
    same = in_tiles(lambda part, wrap: part, x, 1, grid, BOTH)
    assert same.allclose(x)


@pytest.mark.long
@pytest.mark.parametrize(("tiling", "fits"), [("both", (True, True)), ("x", (False, True)), ("y", (True, False))])
def test_a_picture_begins_anywhere_along_the_axes_that_wrap(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, tiling: str, fits: tuple[bool, bool]
):
    """Noise that is rolled by 4 latents is a picture that is rolled by 32 pixels: its edge is a place like others."""
    wanted = ImageRequest(prompt="a fox", width=96, height=64, steps=2, seed=3, tiling=tiling)
    plain = np.asarray(model.generate(wanted).images[0], dtype=int)
    start = TorchCpu.start
    for axis, fit in enumerate(fits):
        monkeypatch.setattr(TorchCpu, "start", lambda source, shape, axis=axis: start(source, shape).roll(4, 2 + axis))
        rolled = np.asarray(model.generate(wanted).images[0], dtype=int)
        assert (np.abs(rolled - np.roll(plain, 32, axis)).max() <= 1) == fit


@pytest.mark.long
def test_questions_of_both_kinds_may_stand_together(model: LatentDiffusion, stand_in: Path):
    flat = ImageRequest(prompt="a fox", width=64, height=64, steps=1, seed=3)
    around = flat.model_copy(update={"tiling": "both"})
    alone = [model.generate(one).images[0] for one in (flat, around)]
    streams = [model.stream(one) for one in (flat, around)]
    together = [list(stream)[-1].images[0] for stream in streams]
    assert alone == together and alone[0] != alone[1]
