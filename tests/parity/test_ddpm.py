"""What the recipe `ddpm` writes, painted by diffusers' DDPMPipeline and by Marmo: the same pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from marmo.catalog import open_for
from marmo.diffusion.noise import COSINE, DDPM, Betas
from marmo.models.pixel_unet import PIXEL_TOY, PixelUNet, PixelUNetConfig
from marmo.pipelines.pixel_diffusion import PixelDiffusion
from marmo.request import ImageRequest
from marmo.weights.checkpoint import Checkpoint, Part, open_checkpoint
from marmo.weights.export import write_folder
from marmo.weights.forms import written
from marmo.weights.maps.scheduler import ddpm_to_json
from marmo.weights.store import from_state
from tests.parity.test_unet import drawn

peers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

GREY = replace(PIXEL_TOY, in_channels=1, out_channels=1, side=8)
CASES = {
    "T = 1000": (PIXEL_TOY, replace(DDPM, num_levels=1000), 50),
    "T = 300, all of them, grey": (GREY, replace(DDPM, num_levels=300), 300),
    "cosine": (replace(PIXEL_TOY, convention="diffusers", head_width=8, side=16), replace(COSINE, num_levels=100), 100),
}


def folder(path: Path, config: PixelUNetConfig, betas: Betas) -> Path:
    state = from_state(drawn(PixelUNet(config)).state_dict())
    part = Part(written("pixel_unet", "diffusers"), config, state)
    write_folder(Checkpoint(path, "folder", {"pixel_unet": part}, (path,), scheduler=ddpm_to_json(betas)), path)
    return path


@pytest.mark.parametrize(("config", "betas", "steps"), CASES.values(), ids=CASES)
def test_pictures_are_those_of_diffusers(tmp_path: Path, config: PixelUNetConfig, betas: Betas, steps: int) -> None:
    path = folder(tmp_path / "model", config, betas)
    pipeline = peers.DDPMPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.scheduler).__name__ == "DDPMScheduler"
    draw = torch.Generator().manual_seed(7)
    (theirs,) = pipeline(generator=draw, num_inference_steps=steps).images
    model = open_for(ImageRequest(model=str(path)), "cpu", "float32")
    assert isinstance(model, PixelDiffusion)
    schedule = "normal" if steps == betas.num_levels else "evenly"
    if schedule == "evenly":  # diffusers takes every 20th level, counted from 0: ours are asked for the same
        times = torch.arange(steps).flip(0) * (betas.num_levels // steps)
        model.sigmas = lambda request: torch.cat([model.table.sigmas[times].float(), torch.zeros(1)])  # type: ignore[method-assign]
    (ours,) = model.generate(ImageRequest(seed=7, steps=steps)).images
    apart = np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs.convert("RGB"), dtype=int))
    assert apart.max() <= 1 and np.asarray(ours).std() > 10


def test_a_folder_of_diffusers_is_opened(tmp_path: Path) -> None:
    """As `save_pretrained` writes it, and as the models of 2022 lie: all in one folder."""
    from marmo.weights.maps.pixel_unet import config_to_json

    peer = drawn(peers.UNet2DModel.from_config(config_to_json(PIXEL_TOY)))
    peers.DDPMPipeline(peer, peers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(tmp_path / "new")
    found = open_checkpoint(tmp_path / "new")
    assert found.parts["pixel_unet"].config == PIXEL_TOY and found.scheduler["beta_schedule"] == "squaredcos_cap_v2"

    old = tmp_path / "old"
    peer.save_pretrained(old)
    peers.DDPMScheduler().save_pretrained(old)
    (old / "model_index.json").write_text((tmp_path / "new" / "model_index.json").read_text())
    bare = open_checkpoint(old)
    assert bare.parts["pixel_unet"].tensors.infos == found.parts["pixel_unet"].tensors.infos
    assert bare.scheduler["beta_schedule"] == "linear"


def test_a_written_folder_is_converted_to_the_same_bytes(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", PIXEL_TOY, DDPM)
    write_folder(open_checkpoint(path), tmp_path / "again")
    for name in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "model_index.json"):
        assert (path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
