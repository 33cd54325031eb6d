"""What an autoencoder loses is measured against what it was given, by an oracle whose mistakes are known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.checkpoint import random_checkpoint
from marmo.data.atlas import drawn_now
from marmo.data.compose import compose
from marmo.data.scenes import scene
from marmo.data.selection import GROUPS, Selection
from marmo.evaluate.found import Found, truth
from marmo.evaluate.reconstruction import SEED, losses, open_vae, through
from tests.upscalers import upscaler_file

SPRITES = drawn_now(torch.device("cpu"))
FEW = frozenset(("cat", "dog", "car"))
COUNT, SIZE = 24, 32


class Knowing:
    """Knows the scenes that are drawn, kind after kind, and sees grey things where a picture has no colour."""

    def __init__(self) -> None:
        selections = [Selection(FEW, frozenset((kind,))) for kind in sorted(GROUPS)]
        self.scenes = [scene(SEED, index, "train", one) for one in selections for index in range(COUNT)]
        self.known = compose(self.scenes, SIZE, SPRITES).float().flatten(1)

    def __call__(self, pictures: Tensor) -> list[list[Found]]:
        exact = "donot_use_mm_for_euclid_dist"
        rows = torch.cdist(pictures.float().flatten(1), self.known, compute_mode=exact).min(1)
        return [truth(self.scenes[int(row)]) if apart < 1 else [] for apart, row in zip(*rows, strict=True)]


@pytest.mark.long
def test_scenes_that_come_back_one_level_off() -> None:
    """48.13 dB by the definition; this oracle knows exact pictures alone, and so loses all."""
    found = list(losses(lambda x: x ^ 1, Knowing(), count=COUNT, size=SIZE, concepts=FEW, sprites=SPRITES))
    assert [loss.kind for loss in found] == ["single", "pair"]
    assert all(loss.psnr.value == pytest.approx(48.13, abs=0.01) for loss in found)
    assert all((loss.before.value, loss.after.value, loss.lost.value) == (1, 0, 1) for loss in found)


def test_what_the_oracle_no_longer_finds_is_lost() -> None:
    """Every second picture is destroyed."""

    def half(pictures: Tensor) -> Tensor:
        return torch.stack([255 - x if row % 2 else x.clone() for row, x in enumerate(pictures)])

    (loss,) = losses(half, Knowing(), ("pair",), count=COUNT, size=SIZE, concepts=FEW, sprites=SPRITES)
    assert loss.before.value == 1 and loss.after.value == 0.5
    assert loss.lost.value == 0.5 and 0.2 < loss.lost.low < 0.5 < loss.lost.high < 0.8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model") / "toy.safetensors", dtype=torch.float32)


@pytest.mark.long
def test_the_autoencoder_of_a_model_is_opened_and_used(model: Path) -> None:
    pictures = compose([scene(0, 0), scene(0, 1)], 64, SPRITES)
    vae = open_vae(model)
    back = through(vae)(pictures)
    assert back.shape == pictures.shape and back.dtype == torch.uint8
    with torch.inference_mode():
        plain = vae.decode(vae.encode(pictures.float() / 127.5 - 1).mean)
    assert torch.equal(back, ((plain + 1) * 127.5).round().clamp(0, 255).byte())


def test_what_is_no_autoencoder_is_refused(tmp_path: Path) -> None:
    path = upscaler_file(tmp_path / "x4.safetensors")
    with pytest.raises(ValueError, match="holds no autoencoder"):
        open_vae(path)
