"""Forecasts: memory from a rehearsal, time from a probe of the machine; nothing is painted."""

import time
from pathlib import Path

import pytest

from marmo import catalog
from marmo.pipelines.events import Step
from marmo.pipelines.footprint import expected_memory
from marmo.pipelines.forecast import forecast
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest


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
    """Within a factor, on a machine that does other things as well."""
    wanted = request(steps=20, width=128, height=128)
    first = None
    for event in model.stream(wanted):
        if isinstance(event, Step) and first is None:
            first = time.perf_counter()
    assert first is not None
    taken = time.perf_counter() - first
    assert taken / 10 < forecast(model, wanted).seconds < taken * 10


@pytest.mark.long
@pytest.mark.parametrize("fields", [{"steps": 1, "guidance_scale": 1}, {"steps": 2, "num_images": 3}])
def test_any_request_has_a_forecast(model: LatentDiffusion, fields: dict[str, object]):
    assert forecast(model, request(**fields)).seconds > 0


def test_a_request_that_cannot_be_painted_has_none(model: LatentDiffusion):
    with pytest.raises(ValueError, match="not a multiple of 8"):
        forecast(model, request(width=68))
