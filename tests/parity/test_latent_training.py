"""Training against diffusers: targets, weights and noise levels are its own, and it paints the same from the result."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import marmo
from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.noise import COSINE, STABLE_DIFFUSION, NoiseTable
from marmo.diffusion.training import lesson
from marmo.recipes.latent import UNetShape, main
from marmo.request import ImageRequest
from tests.recipes.latent_parts import write_parts
from tests.recipes.shapes import shape
from tests.recipes.test_latent import small

peers = pytest.importorskip("diffusers")
training_utils = pytest.importorskip("diffusers.training_utils")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

SCHEDULES = {
    "stable diffusion": (
        STABLE_DIFFUSION,
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    ),
    "cosine": (COSINE, {"beta_schedule": "squaredcos_cap_v2"}),
    "zero snr": (
        replace(COSINE, zero_snr=True),
        {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_lesson_is_what_diffusers_teaches(name: str):
    """`add_noise`, `get_velocity`, `compute_snr`, the weights of its examples; its levels are rounded to float32."""
    betas, options = SCHEDULES[name]
    theirs = peers.DDPMScheduler(**options)
    times = torch.tensor([0, 1, 250, 500, 900, 998])
    x0, noise = torch.randn(2, len(times), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = NoiseTable(betas).sigmas[times]
    snr = training_utils.compute_snr(theirs, times)
    wanted = {
        "eps": (noise, snr.clamp(max=5) / snr),
        "v": (theirs.get_velocity(x0, noise, times), snr.clamp(max=5) / (snr + 1)),
    }
    for target, (answer, weights) in wanted.items():
        ours = lesson(Parametrisation(target, NoiseTable(betas)), x0, noise, sigma, min_snr=5.0)
        assert torch.allclose(ours.seen, theirs.add_noise(x0, noise, times), atol=1e-4)
        assert torch.allclose(ours.target, answer, atol=1e-4)
        assert torch.allclose(ours.weights, weights, rtol=2e-3, atol=1e-5)
        assert torch.allclose(ours.clock, times.float(), atol=1e-3)


def pictures(pipeline, model, steps: int) -> tuple[np.ndarray, np.ndarray]:
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a small red circle", num_inference_steps=steps, guidance_scale=3.0, generator=torch.Generator().manual_seed(7)
    ).images[0]
    request = ImageRequest(
        prompt="a small red circle", steps=steps, sampler="ddim", eta=0.0, guidance_scale=3.0, seed=7
    )
    ours = model.generate(request).images[0]
    assert ours.size == theirs.size == (32, 32)  # the side that it was trained with
    return np.asarray(ours, dtype=int), np.asarray(theirs, dtype=int)


@pytest.mark.long
@pytest.mark.parametrize(
    "noise", [{"target": "v"}, {"target": "eps", "noise": "scaled_linear", "zero_snr": False}], ids=["v", "eps"]
)
def test_diffusers_paints_the_same_from_the_result(tmp_path: Path, noise: dict[str, object]):
    unet = UNetShape(channels=(16, 32), depths=(1, 1), num_heads=(1, 2), num_res_blocks=1, num_groups=4)
    config = small(tmp_path, write_parts(tmp_path), unet=unet, images=64, save_images=64, **noise)
    path = main(replace(config, text_lr=0.5, lr=2e-3), shape)
    pipeline = peers.StableDiffusionPipeline.from_pretrained(path)
    assert pipeline.tokenizer.model_max_length == 16 == pipeline.text_encoder.config.max_position_embeddings
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    ours, theirs = pictures(pipeline, marmo.load(path, device="cpu", dtype="float32"), steps=5)
    assert np.abs(ours - theirs).max() <= 1 and theirs.std() > 5


@pytest.mark.long
def test_diffusers_opens_a_flow(tmp_path: Path):
    """Its DPM-Solver is told the time in whole thousandths; so the pictures are alike and not equal."""
    config = small(tmp_path, write_parts(tmp_path), images=64, save_images=64, target="flow", noise=None, zero_snr=None)
    path = main(replace(config, lr=1e-2), shape)
    pipeline = peers.StableDiffusionPipeline.from_pretrained(path)
    assert pipeline.scheduler.config.prediction_type == "flow_prediction"
    assert pipeline("a small red circle", num_inference_steps=5, output_type="np").images.shape == (1, 32, 32, 3)
    model = marmo.load(path, device="cpu", dtype="float32")
    assert (model.card.target, model.card.betas.kind) == ("flow", "flow")
    request = ImageRequest(prompt="a small red circle", steps=5, seed=7)
    assert model.resolve(request).schedule == "trailing"
    assert np.asarray(model.generate(request).images[0]).std() > 1
