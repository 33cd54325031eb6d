"""Forecasts: reckoned from sizes and one measured step, never from a whole picture."""

import time

import pytest
import torch

from marmo.pipelines.events import Step
from marmo.pipelines.forecast import expected_memory, forecast
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest


def request(**fields: object) -> ImageRequest:
    return ImageRequest(**{"prompt": "a fox", "width": 64, "height": 64, "steps": 50, "seed": 7, **fields})


def memory(model: LatentDiffusion, **fields: object) -> int:
    return expected_memory(model.card, model.resolve(request(**fields)), model.dtype)


@pytest.mark.long  # counting operations brings in torch's compiler
@pytest.mark.parametrize(("sampler", "most"), [("euler", 2), ("heun", 3)])
def test_two_steps_are_painted_and_no_more(model: LatentDiffusion, sampler: str, most: int):
    calls: list[int] = []
    handle = model.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    cost = forecast(model, request(sampler=sampler))
    handle.remove()
    assert len(calls) <= most
    assert cost.seconds > 0 and cost.memory == memory(model)


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


def test_memory_grows_with_what_is_asked_for(model: LatentDiffusion):
    small = memory(model)
    numbers = sum(weight.numel() for network in model.networks.values() for weight in network.parameters())
    assert small > 4 * numbers
    assert small < memory(model, width=128) < memory(model, width=512, height=512)
    assert memory(model) < memory(model, num_images=4, width=128, height=128)
    half = expected_memory(model.card, model.resolve(request()), torch.bfloat16)
    assert small - half > 2 * numbers


def test_memory_of_many_pictures_is_that_of_one_call(model: LatentDiffusion):
    """Their rows are asked in several calls."""
    sizes = {"width": 512, "height": 512}
    assert memory(model, num_images=64, **sizes) == memory(model, num_images=8, **sizes)
