"""A request's walk, driven from outside: what a server does with many of them."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from marmo.pipelines.events import Event, Result, Stage, Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Ask, Decode
from marmo.request import ImageRequest

Walk = Iterator[Event | Ask | Decode]


def request(**fields: object) -> ImageRequest:
    return ImageRequest(**{"prompt": "a red fox", "width": 64, "height": 48, "steps": 3, "seed": 7, **fields})


def until_asked(walk: Walk) -> Ask | Result:
    """What the walk asks of the U-Net next, or its end."""
    for event in walk:
        if isinstance(event, Decode):
            event.answer()
        elif isinstance(event, Ask | Result):
            return event
    raise AssertionError("a walk ends with its result")


def apart(left: Image.Image, right: Image.Image) -> int:
    """The largest difference, of 255."""
    return int(np.abs(np.asarray(left, dtype=int) - np.asarray(right, dtype=int)).max())


def test_a_walk_tells_what_the_stream_tells(model: LatentDiffusion):
    told = list[Event]()
    asked = list[Ask | Decode]()
    for event in model.walk(request(num_images=2)):
        if isinstance(event, Ask | Decode):
            event.answer()
            asked.append(event)
        else:
            told.append(event)
    streamed = list(model.stream(request(num_images=2)))
    assert [type(event) for event in told] == [type(event) for event in streamed]
    assert told[-1].images == streamed[-1].images
    assert [type(work) for work in asked] == [Ask] * 3 + [Decode] * 2
    assert all(work.painter is model for work in asked)


def test_nothing_is_asked_before_it_is_needed(model: LatentDiffusion):
    walk = model.walk(request())
    assert next(walk) == Stage("encoding")
    ask = next(walk)
    assert isinstance(ask, Ask) and len(ask.questions) == 2 and not ask.x0s


def test_a_question_may_be_answered_again(model: LatentDiffusion):
    """As after a failure: the walk stands where it stood."""
    walk, again = model.walk(request(sampler="heun")), model.walk(request(sampler="heun"))
    while isinstance(ask := until_asked(walk), Ask):
        other = until_asked(again)
        assert isinstance(other, Ask)
        ask.answer()
        other.x0s = [torch.full_like(x0, torch.nan) for x0 in ask.x0s]
        other.answer()
    end = until_asked(again)
    assert isinstance(end, Result) and end.images == ask.images


@pytest.mark.parametrize("second", [{"sampler": "heun"}, {"num_images": 2, "seed": 3}, {"guidance_scale": 1.0}])
def test_walks_may_be_answered_together(model: LatentDiffusion, second: dict[str, object]):
    """Different samplers, at different steps, with different rows: each ends where it would have ended alone."""
    requests = [request(), request(prompt="a bear", steps=4, **second)]
    walks = [model.walk(one) for one in requests]
    first_step = until_asked(walks[0])
    assert isinstance(first_step, Ask)
    first_step.answer()  # the first is a step ahead
    ends = list[Result]()
    while walks:
        asks = [until_asked(walk) for walk in walks]
        ends += [end for end in asks if isinstance(end, Result)]
        walks = [walk for walk, ask in zip(walks, asks, strict=True) if isinstance(ask, Ask)]
        open_asks = [ask for ask in asks if isinstance(ask, Ask)]
        if open_asks:
            x0s = iter(model.ask([question for ask in open_asks for question in ask.questions]))
            for ask in open_asks:
                ask.x0s = [next(x0s) for _ in ask.questions]
    for wanted, end in zip(requests, sorted(ends, key=lambda end: end.records[0].seed != 7), strict=True):
        for picture, alone in zip(end.images, model.generate(wanted).images, strict=True):
            assert apart(picture, alone) <= 1


def test_steps_follow_their_answers(model: LatentDiffusion):
    walk = model.walk(request())
    ask = until_asked(walk)
    assert isinstance(ask, Ask)
    ask.answer()
    step = next(walk)
    assert isinstance(step, Step) and step.index == 0
