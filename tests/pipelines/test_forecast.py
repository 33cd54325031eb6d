"""Forecasts: memory from a rehearsal, time from a probe of the machine; nothing is painted."""

import time
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.pipelines.events import Step
from marmo.pipelines.footprint import expected_memory
from marmo.pipelines.forecast import forecast, stations
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest
from tests.upscalers import upscaler_file


def request(**fields: object) -> ImageRequest:
    return ImageRequest(**{"prompt": "a fox", "width": 64, "height": 64, "steps": 50, "seed": 7, **fields})


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_no_weight_is_read_and_no_step_painted(stand_in: Path, sampler: str):
    model = catalog.open_model(stand_in, "cpu", "float32")
    cost = forecast(model, request(sampler=sampler))
    assert all(weight.device.type == "meta" for network in model.networks.values() for weight in network.parameters())
    assert cost.seconds > 0
    assert cost.memory == expected_memory([model.card], model.resolve(request(sampler=sampler)), model.dtype)


@pytest.mark.long
def test_the_time_is_of_the_right_size(model: LatentDiffusion):
    """Within a factor, on a machine that does other things as well: of the time that was worked, not of the clock's."""
    wanted = request(steps=20, width=128, height=128)
    first = None
    for event in model.stream(wanted):
        if isinstance(event, Step) and first is None:
            first = time.process_time()
    assert first is not None
    taken = (time.process_time() - first) / torch.get_num_threads()
    assert taken / 10 < forecast(model, wanted).seconds < taken * 10


@pytest.mark.long
@pytest.mark.parametrize("fields", [{"steps": 1, "guidance_scale": 1}, {"steps": 2, "num_images": 3}])
def test_any_request_has_a_forecast(model: LatentDiffusion, fields: dict[str, object]):
    assert forecast(model, request(**fields)).seconds > 0


def test_a_request_that_cannot_be_painted_has_none(model: LatentDiffusion):
    with pytest.raises(ValueError, match="not a multiple of 8"):
        forecast(model, request(width=68))


def picture(width: int, height: int) -> bytes:
    stream = BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def enlargers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("enlargers")
    return {
        "x2": random_checkpoint(folder / "x2", family="sd-x2"),
        "x4": random_checkpoint(folder / "x4", family="sd-x4"),
        "esrgan": upscaler_file(folder / "esrgan.safetensors"),
    }


def assert_reckoned(model: LatentDiffusion, wanted: ImageRequest) -> None:
    """What is reckoned is what torch counts while it is painted, but for the texts, which are not reckoned.

    Convolutions and products alone: torch counts no attention on the CPU.
    """
    calls = [one for need in stations(model, model.resolve(wanted)) for one in need.calls.items()]
    expected = sum(work.flops * times for work, times in calls if work.kind != "attention")
    model.load()
    with FlopCounterMode(display=False) as counter:
        model.generate(wanted)
    counted = counter.get_flop_counts()
    products = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)
    everything, texts = (
        sum(counted[module].get(operation, 0) for operation in products) for module in ("Global", "PreNormBlock")
    )
    assert texts > 0
    assert everything - texts == pytest.approx(expected, rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("strength", [0, 0.7])
@pytest.mark.parametrize("way", ["latent-bilinear", "lanczos", "x2", "esrgan"])
def test_a_second_pass_is_reckoned(stand_in: Path, enlargers: dict[str, Path], way: str, strength: float):
    by = {"model": str(enlargers[way])} if way in enlargers else {"upscaler": way}
    model = catalog.open_model(stand_in, "cpu", "bfloat16", upscaler=enlargers.get(way))
    hires = {"scale": 2, "strength": strength, **by}
    assert_reckoned(model, request(steps=3, height=48, hires=hires))
    once = catalog.open_model(stand_in, "cpu", "bfloat16")
    more, less = forecast(model, request(steps=3, hires=hires)), forecast(once, request(steps=3))
    assert more.memory > less.memory if strength or way != "lanczos" else more.memory >= less.memory


@pytest.mark.long
@pytest.mark.parametrize("name", ["x2", "x4"])
def test_models_that_enlarge_are_reckoned(enlargers: dict[str, Path], name: str):
    model = catalog.open_model(enlargers[name], "cpu", "bfloat16")
    assert_reckoned(model, request(width=None, height=None, steps=3, init_image=picture(48, 32), guidance_scale=3))


@pytest.mark.long
def test_image_to_image_is_reckoned_by_the_steps_it_walks(stand_in: Path):
    model = catalog.open_model(stand_in, "cpu", "bfloat16")
    assert_reckoned(model, request(steps=10, init_image=picture(64, 48), strength=0.3, width=None, height=None))


@pytest.mark.long
def test_an_upscaler_is_reckoned_by_its_tiles(enlargers: dict[str, Path]):
    model = catalog.open_for(ImageRequest(model=str(enlargers["esrgan"])), "cpu", "float32")
    small, large = (forecast(model, ImageRequest(init_image=picture(side, side))) for side in (100, 400))
    assert 0 < small.seconds < large.seconds and small.memory < large.memory
    assert all(weight.device.type == "meta" for weight in model.networks["upscaler"].parameters())
