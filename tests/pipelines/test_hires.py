"""The second pass: how it begins, how far it walks, what enlarges, and what is refused."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import marmo
from marmo import catalog
from marmo.diffusion.sources import TorchCpu
from marmo.nn.engine import Wrap
from marmo.pipelines.enlarge import RULES, enlarge_latents, enlarge_pixels
from marmo.pipelines.events import Result, Stage, Step
from marmo.pipelines.hires import stretched
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import Hires, ImageRequest
from tests.upscalers import upscaler_file


def request(hires: dict[str, object], **fields: object) -> ImageRequest:
    asked = {"prompt": "a red fox", "width": 32, "height": 32, "steps": 2, "seed": 7, "hires": Hires(**hires)}
    return ImageRequest(**asked | fields)


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return upscaler_file(tmp_path_factory.mktemp("upscaler") / "4x-toy.safetensors")


@pytest.fixture(scope="module")
def enlarging(stand_in: Path, upscaler: Path) -> LatentDiffusion:
    return marmo.load(stand_in, device="cpu", dtype="float32", upscaler=upscaler)


def test_the_order_of_events(model: LatentDiffusion):
    *before, result = model.stream(request({"scale": 2, "steps": 3}))
    names = [event.name if isinstance(event, Stage) else (event.index, event.total) for event in before]
    assert names == ["encoding", (0, 5), (1, 5), "upscaling", (2, 5), (3, 5), (4, 5), "decoding"]
    assert isinstance(result, Result) and result.images[0].size == (64, 64)
    (record,) = result.records
    assert record.request.hires.upscaler == "latent-bilinear" and record.request.hires.strength == 0.7
    levels = [event.sigma for event in before if isinstance(event, Step)]
    assert record.sigmas == (*levels[:2], 0.0, *levels[2:], 0.0)


def test_the_second_pass_begins_in_the_enlarged_latents_under_the_seeds_first_noise(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
):
    asked: list[torch.Tensor] = []
    answer = model.ask
    monkeypatch.setattr(model, "ask", lambda batch: asked.extend(one.x for one in batch) or answer(batch))
    wanted = request({"scale": 2, "steps": 2, "strength": 0.5}, guidance_scale=1)
    steps = [event for event in model.stream(wanted) if isinstance(event, Step)]
    first = steps[1].x0  # the last level is 0: the last x0 is where the pass ends
    large = F.interpolate(first, (8, 8), mode="bilinear")
    assert torch.allclose(asked[2], large + TorchCpu([7]).normal((4, 8, 8)) * steps[2].sigma, atol=1e-5)


def test_all_steps_are_walked_from_the_strength_on(model: LatentDiffusion):
    assert [stretched(*case) for case in ((25, 0.7), (10, 1.0), (10, 0.5), (4, 0.001), (7, 0.0))] == [
        35,
        10,
        20,
        1000,
        7,
    ]
    steps = [
        event.sigma
        for event in model.stream(request({"scale": 1, "steps": 3, "strength": 0.5}))
        if isinstance(event, Step)
    ]
    whole = model.sigmas(model.resolve(request({}, steps=6)))
    assert steps[2:] == [float(sigma) for sigma in whole[3:6]]


@pytest.mark.long
def test_what_is_said_for_the_second_pass_acts_there_alone(model: LatentDiffusion):
    def x0s(**hires: object) -> list[torch.Tensor]:
        wanted = request({"scale": 2, "strength": 0.9, **hires})
        return [event.x0 for event in model.stream(wanted) if isinstance(event, Step)]

    plain = x0s()
    for said in (
        {"prompt": "a grey wolf"},
        {"negative_prompt": "dark"},
        {"upscaler": "latent-area"},
        {"strength": 0.4},
    ):
        changed = x0s(**said)
        assert torch.equal(changed[0], plain[0]) and not torch.equal(changed[-1], plain[-1]), said


def test_a_plan_goes_on_where_the_first_pass_ended(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    """As A1111: shares of the second pass run from 1 to 2, and numbers of steps go on."""
    seen: list[str] = []
    encode = model._encode

    def spy(chunks, skip, emphasis):
        seen.append(model.tokenizer.backend.decode(list(chunks[0].ids)).removesuffix("</w>"))
        return encode(chunks, skip, emphasis)

    monkeypatch.setattr(model, "_encode", spy)
    for _ in model.stream(request({"scale": 1}, prompt="[cat:dog:1.5]", steps=2, guidance_scale=1)):
        pass
    assert seen == ["cat", "cat", "dog"]


@pytest.mark.long
def test_a_model_enlarges(enlarging: LatentDiffusion, upscaler: Path):
    wanted = request({"scale": 2, "model": str(upscaler), "strength": 0.5})
    result = enlarging.generate(wanted)
    assert result.images[0].size == (64, 64)
    (record,) = result.records
    assert record.request.hires.upscaler == "model" and record.request.hires.model == upscaler.name
    assert list(record.weights) == ["stand-in.safetensors", f"upscaler/{upscaler.name}"]
    assert result.images != enlarging.generate(request({"scale": 2, "upscaler": "lanczos", "strength": 0.5})).images


@pytest.mark.long
def test_strength_0_is_the_first_picture_enlarged(enlarging: LatentDiffusion, upscaler: Path):
    plain = enlarging.generate(request({})).images[0]
    larger = enlarging.generate(request({"scale": 3, "upscaler": "lanczos", "strength": 0})).images[0]
    assert larger == plain.resize((96, 96), Image.Resampling.LANCZOS)
    by_model = enlarging.generate(request({"scale": 4, "model": str(upscaler), "strength": 0})).images[0]
    stream = BytesIO()
    plain.save(stream, "PNG")
    alone = catalog.open_for(ImageRequest(model=str(upscaler)), "cpu", "float32")
    by_hand = alone.generate(ImageRequest(init_image=stream.getvalue())).images[0]
    assert by_model.size == by_hand.size == (128, 128)
    levels = (np.asarray(picture, dtype=int) for picture in (by_model, by_hand))
    assert np.abs(np.subtract(*levels)).max() <= 8  # by hand, its colours were rounded to 8 bits first


@pytest.mark.parametrize("name", list(RULES))
def test_latents_grow_to_cover_a_size_and_the_rest_is_cut_off(name: str):
    x = torch.randn(2, 4, 6, 4)
    assert enlarge_latents(x, 12, 12, RULES[name], Wrap()).shape == (2, 4, 12, 12)
    whole = enlarge_latents(x, 18, 12, RULES[name], Wrap())
    assert torch.equal(enlarge_latents(x, 12, 12, RULES[name], Wrap()), whole[:, :, 3:15])


@pytest.mark.parametrize("name", list(RULES))
def test_where_edges_meet_they_meet_in_the_larger_one(name: str):
    x = torch.randn(1, 4, 6, 4)
    both = Wrap(True, True)
    rolled = enlarge_latents(x.roll((2, 1), (2, 3)), 12, 8, RULES[name], both)
    assert torch.allclose(rolled, enlarge_latents(x, 12, 8, RULES[name], both).roll((4, 2), (2, 3)), atol=1e-5)
    pixels = torch.rand(1, 3, 6, 8) * 2 - 1
    rolled = enlarge_pixels(pixels.roll(3, 3), 12, 16, Wrap(width=True))
    assert torch.equal(rolled, enlarge_pixels(pixels, 12, 16, Wrap(width=True)).roll(6, 3))


@pytest.mark.parametrize(
    ("hires", "size"),
    [({"scale": 1.5}, (48, 48)), ({"width": 64}, (64, 64)), ({"height": 40}, (40, 40)), ({"scale": 1.15}, (32, 32))],
)
def test_sizes(hires: dict[str, object], size: tuple[int, int]):
    assert Hires(**hires).size(32, 32, 8) == size
    assert Hires(scale=1.15).size(640, 512, 8) == (736, 584)  # 735.9999 is 736


@pytest.mark.parametrize(
    ("hires", "sentence"),
    [
        ({"steps": 3}, "hires needs a scale, a width or a height"),
        ({"scale": 2, "width": 64}, "say the same"),
        ({"width": 16}, "makes 16 x 16 of 32 x 32"),
        ({"scale": 8, "model": "x.safetensors"}, "load the model with upscaler x.safetensors"),
        ({"scale": 2, "upscaler": "model"}, "needs a hires.model"),
        ({"scale": 2, "upscaler": "lanczos", "model": "x"}, "and no other does"),
    ],
)
def test_what_cannot_act_is_refused(model: LatentDiffusion, hires: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        model.resolve(request(hires))
