"""A second pass against diffusers' image-to-image from the same enlarged latents."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.pipelines.events import Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest
from tests.parity.test_pipeline import ANCESTRAL, DDIM, PROMPT, Case, assert_same, folder, model, peer, peers, scheduler

__all__ = ["folder", "model", "peer"]  # fixtures

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def first_latents(model: LatentDiffusion, wanted: ImageRequest) -> Tensor:
    """Where the first pass ends: its last level is 0."""
    return [event.x0 for event in model.stream(wanted) if isinstance(event, Step)][-1]


@pytest.mark.parametrize("case", [DDIM, ANCESTRAL], ids=str)
def test_the_second_pass_is_image_to_image(peer, model: LatentDiffusion, case: Case):
    """4 steps at strength 0.5 are the last 4 of 8."""
    asked = {"prompt": PROMPT, "steps": 4, "guidance_scale": 7.5, "seed": 7, "width": 64, "height": 48}
    once = ImageRequest(**asked, sampler=case.sampler, schedule=case.schedule, start=case.start)
    hires = {"scale": 2, "strength": 0.5, "upscaler": "latent-bicubic"}
    mine = model.generate(ImageRequest.model_validate({**once.model_dump(), "hires": hires})).images
    large = F.interpolate(first_latents(model, once), (12, 16), mode="bicubic")
    second = peers.StableDiffusionImg2ImgPipeline(**peer.components, requires_safety_checker=False)
    second.set_progress_bar_config(disable=True)
    second.scheduler = scheduler(case)
    draw = torch.Generator().manual_seed(7)
    options = {"strength": 0.5, "num_inference_steps": 8, "guidance_scale": 7.5, "generator": [draw]}
    assert_same(list(mine), second(PROMPT, image=large, **options).images)
