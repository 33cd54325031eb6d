"""Tiles of pictures and latents: they cover everything, their seams do not show, far from a border they are exact."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from marmo.models.vae import Moments, VAEConfig
from marmo.pipelines import first_stage
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.tiles import pieces

CONFIG = VAEConfig(channels=(32, 32), latent_channels=3, latent_scale=0.5)  # 2 pixels per latent


class Plain(nn.Module):
    """An autoencoder that sees `reach` latents far: a box blur, and latents are pixels of half the size."""

    def __init__(self, reach: int = 0) -> None:
        super().__init__()
        self.config, self.reach, self.sizes = CONFIG, reach, list[tuple[int, ...]]()
        self.from_latents = nn.Conv2d(1, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        self.sizes.append(tuple(z.shape[2:]))
        return F.interpolate(self._blurred(z), scale_factor=2.0, mode="nearest")

    def encode(self, x: Tensor) -> Moments:
        self.sizes.append(tuple(x.shape[2:]))
        small = self._blurred(F.avg_pool2d(x, 2))
        return Moments(small, -small.abs())

    def _blurred(self, x: Tensor) -> Tensor:
        size = 2 * self.reach + 1
        return F.avg_pool2d(F.pad(x, [self.reach] * 4, mode="replicate"), size, stride=1)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proportions in a quarter of the size."""
    monkeypatch.setattr(first_stage, "WHOLE", 24 * 24)
    monkeypatch.setattr(first_stage, "TILE", 16)
    monkeypatch.setattr(first_stage, "OVERLAP", 4)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_up_to_its_limit_a_picture_is_one_piece():
    vae = Plain()
    first_stage.decode(vae, randn(2, 3, 24, 24))
    assert vae.sizes == [(24, 24)]
    first_stage.decode(vae, randn(2, 3, 24, 25))
    assert vae.sizes[1:] == [(16, 16)] * 4
    assert max(height * width for height, width in vae.sizes) == 24 * 24


def test_at_full_size_the_limit_is_768_pixels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    assert first_stage.WHOLE == (768 // 8) ** 2
    assert first_stage.OVERLAP < first_stage.TILE <= 96


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_tiles_cover_everything_and_weigh_one(height: int, width: int):
    """What needs no neighbours comes out as it is, whatever the size."""
    latents = randn(1, 3, height, width) * 0.1
    whole = F.interpolate(latents / CONFIG.latent_scale, scale_factor=2.0, mode="nearest").clamp(-1, 1)
    assert torch.allclose(first_stage.decode(Plain(), latents), whole, atol=1e-6)
    pixels = randn(1, 3, 2 * height, 2 * width)
    mean, logvar = first_stage.encode(Plain(), pixels)
    small = F.avg_pool2d(pixels, 2)
    assert torch.allclose(mean, small * CONFIG.latent_scale, atol=1e-6)
    assert torch.allclose(logvar, -small.abs() + 2 * torch.tensor(CONFIG.latent_scale).log(), atol=1e-6)


def test_tiles_are_never_larger_than_asked_for():
    vae = Plain()
    first_stage.decode(vae, randn(1, 3, 61, 40))
    assert set(vae.sizes) == {(16, 16)}
    assert len(vae.sizes) == 5 * 3  # 12 apart
    first_stage.decode(vae, randn(1, 3, 3, 400))
    assert set(vae.sizes) == {(16, 16), (3, 16)}


def test_a_reach_below_the_overlap_leaves_the_middle_exact():
    """A tile's border is wrong by what it does not see; away from every border nothing is."""
    vae, latents = Plain(reach=1), randn(1, 3, 40, 40) * 0.1
    tiled = first_stage.decode(vae, latents)
    whole = vae.decode(latents / CONFIG.latent_scale)
    wrong = ((tiled - whole).abs() > 1e-5)[0].any(dim=0)
    seams = {line for start in (0, 12, 24) for line in (start, start + 15)} - {0, 39}
    rows = {int(row) // 2 for row in wrong.all(dim=1).nonzero()}  # wrong along a whole row of latents
    assert rows <= seams
    assert not wrong[8:20, 8:20].any() and wrong.any()
    assert (tiled - whole).abs().max() < 0.5 * whole.abs().max()


@pytest.mark.parametrize("reach", [2, 6])
def test_seams_do_not_show_in_a_smooth_picture(reach: int):
    """No step from pixel to pixel is larger than in the picture decoded whole, but for a little."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 4, 64), indexing="ij")
    latents = 0.2 * torch.stack([x.sin(), y.cos(), (x + y).sin()])[None]
    vae = Plain(reach)
    tiled, whole = first_stage.decode(vae, latents), vae.decode(latents / CONFIG.latent_scale)
    for axis in (2, 3):
        steps, allowed = (picture.diff(dim=axis).abs().max() for picture in (tiled, whole))
        assert steps <= 1.3 * allowed
    assert (tiled - whole).abs().max() < 0.05


@pytest.mark.long
def test_the_real_autoencoder_has_no_seams(model: LatentDiffusion):
    """Its groups are normalised over a whole tile, so a tile may differ from the whole; its edge must not show."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 40), torch.linspace(0, 3, 28), indexing="ij")
    latents = torch.stack([x.sin(), y.cos(), (x + y).sin(), (x - y).cos()])[None]
    tiled = first_stage.decode(model.vae, latents)
    whole = model.vae.decode(latents / model.vae.config.latent_scale).clamp(-1, 1)
    assert tiled.shape == whole.shape == (1, 3, 320, 224)
    steps = tiled.diff(dim=2).abs().mean(dim=(0, 1, 3))  # from row to row
    seams = [8 * start - 1 for start in (12, 16, 24, 28)]  # where a tile begins or ends
    assert steps[seams].max() <= steps.mean() * 1.5


@pytest.mark.long
def test_encoding_in_tiles_is_near_the_whole(model: LatentDiffusion):
    """Of a picture that is everywhere alike, so that a tile's groups are normalised as the whole's."""
    pixels = randn(1, 3, 320, 224).clamp(-1, 1)
    mean, logvar = first_stage.encode(model.vae, pixels)
    assert mean.shape == logvar.shape == (1, 4, 40, 28)
    assert torch.isfinite(mean).all() and torch.isfinite(logvar).all()
    whole = model.vae.encode(pixels).mean * model.vae.config.latent_scale
    assert F.cosine_similarity(mean.flatten(), whole.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("small", [True, False])
@given(st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=30, deadline=None)
def test_the_pieces_are_known_beforehand(small: bool, height: int, width: int):
    vae = Plain()
    first_stage.decode(vae, torch.zeros(1, 3, height, width), small=small)
    assert pieces(height, width, first_stage.tiling(small)) == (len(vae.sizes), max(vae.sizes))


class Moody(Plain):
    """An autoencoder whose tiles are of one tone each, and of very different ones: the worst that norms can do."""

    def decode(self, z: Tensor) -> Tensor:
        self.sizes.append(tuple(z.shape[2:]))
        tone = -1.0 if len(self.sizes) % 2 else 1.0
        return torch.full((1, 3, 8 * z.shape[2], 8 * z.shape[3]), tone)


@pytest.mark.long
@pytest.mark.parametrize(("small", "levels"), [(True, 79), (False, 127)])
@given(height=st.integers(1, 150), width=st.integers(1, 150))
@settings(max_examples=30, deadline=None)
def test_a_seam_is_below_one_level_of_255(small: bool, levels: int, height: int, width: int):
    """At full size tiles go over into each other along 128 pixels, or 80: so many levels apart, they show no step."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WHOLE": 96 * 96, "TILE": 64, "OVERLAP": 16}.items():
            patch.setattr(first_stage, name, value)
        vae = Moody()
        vae.config = replace(CONFIG, channels=(32,) * 4)
        pixels = first_stage.decode(vae, torch.zeros(1, 3, height, width), small=small)
    apart, level = 2.0, 2 / 255
    for axis in (2, 3):
        steps = pixels.diff(dim=axis).abs()
        assert not steps.numel() or float(steps.max()) * (levels * level / apart) < level
