"""Footprints: from configs alone, larger for what is larger, and near what a process really takes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marmo.models.unet import SD1
from marmo.models.vae import KL_F8
from marmo.pipelines.footprint import PROCESS_BYTES, evaluations, expected_memory, needs
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.residence import MODES
from marmo.request import ImageRequest

MEASURE = """
import sys, marmo
from benchmarks.machine import memory
model = marmo.load(sys.argv[1], device="cpu", dtype="float32", memory=sys.argv[3])
side = int(sys.argv[2])
model.generate(marmo.ImageRequest(prompt="a fox", width=side, height=side, steps=1, seed=7))
print(memory("VmHWM"))
"""


def request(**fields: object) -> ImageRequest:
    return ImageRequest(**{"prompt": "a fox", "width": 64, "height": 64, "steps": 50, "seed": 7, **fields})


def memory(model: LatentDiffusion, dtype: torch.dtype = torch.float32, mode: str = "full", **fields: object) -> int:
    return expected_memory([model.card], model.resolve(request(**fields)), dtype, mode)


@pytest.mark.long
def test_memory_grows_with_what_is_asked_for(model: LatentDiffusion):
    small = memory(model)
    numbers = sum(weight.numel() for network in model.networks.values() for weight in network.parameters())
    assert small > PROCESS_BYTES + 4 * numbers
    assert small < memory(model, width=128) < memory(model, width=512, height=512)
    assert memory(model) < memory(model, num_images=4, width=128, height=128)
    assert small - memory(model, torch.bfloat16) > 2 * numbers


@pytest.mark.long
def test_memory_of_many_pictures_is_that_of_one_call(model: LatentDiffusion):
    """Their rows are asked in several calls; only the pictures themselves add up."""
    sizes = {"width": 512, "height": 512}
    more = memory(model, num_images=64, **sizes) - memory(model, num_images=8, **sizes)
    assert more == 56 * 4 * 3 * 512 * 512


@pytest.mark.long
def test_thrift_takes_less(model: LatentDiffusion):
    sizes = {"width": 1024, "height": 1024}
    full, offload, low, least = (memory(model, mode=mode, **sizes) for mode in MODES)
    assert least < low <= offload < full
    whole = model.resolve(request(**sizes))
    parts = needs(model.card, whole, torch.float32, MODES["low"])
    assert low == PROCESS_BYTES + max(part.both for part in parts)
    assert offload == PROCESS_BYTES + max(part.both for part in needs(model.card, whole, torch.float32))


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "calls"), [({}, 100), ({"guidance_scale": 1}, 50), ({"sampler": "heun"}, 200), ({"num_images": 3}, 300)]
)
def test_every_row_of_every_step_is_reckoned(model: LatentDiffusion, fields: dict[str, object], calls: int):
    """At the largest resolution attention to the prompt is asked once per block and call; here by rows."""
    whole = model.resolve(request(**fields))
    _, unet, _ = needs(model.card, whole, torch.float32)
    rows = sum(count * work.shapes[0][0] for work, count in unet.calls.items() if work.shapes[0][1:] == (4, 8, 8))
    assert rows == calls
    assert evaluations(whole) == (100 if fields.get("sampler") == "heun" else 50)


@pytest.mark.long
def test_a_real_size_needs_what_is_known_of_it(model: LatentDiffusion):
    """Stable Diffusion 1: 1606 GFLOP by torch's counter and hand arithmetic; nothing in here knows a family."""
    card = replace(model.card, unet=SD1, vae=KL_F8)
    _, need, _ = needs(card, model.resolve(request(width=512, height=512, steps=1)), torch.float32)
    flops = sum(work.flops * count for work, count in need.calls.items())
    assert flops == pytest.approx(1606e9, rel=0.02)


@pytest.mark.long
@pytest.mark.parametrize(("side", "mode"), [(256, "full"), (640, "full"), (512, "least")])
def test_a_process_takes_what_was_expected(model: LatentDiffusion, stand_in: Path, side: int, mode: str):
    """Within 15 %, the program itself included; `benchmarks/memory.py` does the same with real sizes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(stand_in), str(side), mode], capture_output=True, text=True, check=True
    )
    expected = memory(model, mode=mode, width=side, height=side, steps=1)
    assert int(done.stdout) == pytest.approx(expected, rel=0.15)
