"""The latent pipeline: what it tells while it paints, what it asks its networks, and what it refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import marmo
from marmo import catalog
from marmo.diffusion import sources
from marmo.diffusion.sources import NOISE_SOURCES, TorchCpu, slerp
from marmo.models.tiny_decoder import TAESD
from marmo.models.unet import TransformerBlock
from marmo.pipelines import first_stage
from marmo.pipelines.conditions import Condition
from marmo.pipelines.events import Event, Result, Stage, Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Question
from marmo.pipelines.pixels import to_pictures, to_tensor
from marmo.request import Guidance, ImageRequest, Variation
from marmo.weights.forms import expected, written
from marmo.weights.keymap import to_theirs
from marmo.weights.store import from_state, write


def request(**fields: object) -> ImageRequest:
    """A small picture in few steps."""
    return ImageRequest(**{"prompt": "a red fox", "width": 64, "height": 48, "steps": 3, "seed": 7, **fields})


def events(model: LatentDiffusion, wanted: ImageRequest) -> tuple[list[Event], Result]:
    *before, result = model.stream(wanted)
    assert isinstance(result, Result)
    return before, result


def steps(model: LatentDiffusion, wanted: ImageRequest) -> list[Step]:
    return [event for event in model.stream(wanted) if isinstance(event, Step)]


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=int)


def apart(left: Image.Image, right: Image.Image) -> int:
    """The largest difference, of 255."""
    return int(np.abs(levels(left) - levels(right)).max())


def png(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    stream = BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def calls(module: nn.Module) -> Iterator[list[int]]:
    """The batch of every call of a module."""
    batches: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    yield batches
    handle.remove()


@pytest.fixture
def asked(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Every question that the pipeline asks from now on."""
    questions: list[Question] = []
    answer = model.ask

    def ask(batch: list[Question]) -> list[Tensor]:
        questions.extend(batch)
        return answer(batch)

    monkeypatch.setattr(model, "ask", ask)
    return questions


@pytest.fixture
def fresh(stand_in: Path) -> LatentDiffusion:
    """A model of one's own, to be damaged."""
    return marmo.load(stand_in, device="cpu", dtype="float32")


# What it tells


def test_the_order_of_events(stand_in: Path):
    opened = catalog.open_model(stand_in, "cpu", "float32")
    assert all(weight.is_meta for network in opened.networks.values() for weight in network.parameters())
    before, result = events(opened, request())
    names = [event.name if isinstance(event, Stage) else event.index for event in before]
    assert names == ["loading", "encoding", 0, 1, 2, "decoding"]
    assert [picture.size for picture in result.images] == [(64, 48)]
    again, _ = events(opened, request())
    assert again[0] == Stage("encoding")  # loaded once
    assert not any(weight.requires_grad for network in opened.networks.values() for weight in network.parameters())


def test_steps_tell_where_they_are(model: LatentDiffusion):
    wanted = request(num_images=2)
    seen = steps(model, wanted)
    assert [(step.index, step.total) for step in seen] == [(0, 3), (1, 3), (2, 3)]
    assert [step.sigma for step in seen] == model.sigmas(model.resolve(wanted))[:-1].tolist()
    for step in seen:
        assert (step.x0.shape, step.x0.dtype, step.x0.requires_grad) == ((2, 4, 6, 8), torch.float32, False)


def test_heun_asks_twice_but_in_the_last_step(model: LatentDiffusion):
    assert [step.index for step in steps(model, request(sampler="heun"))] == [0, 0, 1, 1, 2]


def test_the_result_ends_where_the_last_step_was(model: LatentDiffusion):
    """The last level is 0: the last x0 is the picture."""
    *_, last, _, result = model.stream(request())
    assert isinstance(last, Step) and isinstance(result, Result)
    assert result.images[0] == to_pictures(first_stage.decode(model.vae, last.x0))[0]


@pytest.mark.long
def test_generate_is_the_end_of_the_stream(model: LatentDiffusion):
    assert model.generate(request()).images == events(model, request())[1].images


def test_the_records_tell_what_decided(model: LatentDiffusion, stand_in: Path):
    wanted = request(num_images=2, model=str(stand_in))
    result = model.generate(wanted)
    for index, record in enumerate(result.records):
        assert (record.image, record.seed, record.dtype, record.device) == (index, 7 + index, "float32", "cpu")
        assert record.request == model.resolve(wanted).model_copy(update={"model": "stand-in.safetensors"})
        assert list(record.weights) == ["stand-in.safetensors"]
        assert record.sigmas == tuple(model.sigmas(record.request).tolist())


def test_a_model_has_defaults_of_its_own(model: LatentDiffusion):
    """The stand-in's file says 256 x 256 in 12 steps."""
    whole = model.resolve(ImageRequest())
    assert (whole.width, whole.height, whole.steps) == (256, 256, 12)


@pytest.mark.long
def test_a_long_prompt_is_noted(model: LatentDiffusion):
    assert model.generate(request(prompt="fox " * 2400)).notes == ()
    notes = model.generate(request(prompt="fox " * 2400 + "wolf bear", negative_prompt="dark " * 76)).notes
    assert notes == ("the model reads 2400 tokens of a prompt; it did not see: wolf bear",)


# Previews


def test_the_linear_preview_has_a_pixel_per_latent(model: LatentDiffusion):
    step = steps(model, request(num_images=2))[-1]
    assert [picture.size for picture in step.preview()] == [(8, 6), (8, 6)]


def test_the_linear_preview_has_the_colours_of_the_decoder(model: LatentDiffusion):
    """Between plus and minus 1 in a channel lies what lies between the decoder's two mean colours."""
    for channel in range(4):
        flat = torch.zeros(2, 4, 8, 8)
        flat[0, channel], flat[1, channel] = 1, -1
        up, down = (levels(picture)[0, 0] for picture in model.preview(flat))
        means = first_stage.decode(model.vae, flat).mean(dim=(2, 3)) * 127.5
        assert np.abs((up - down) - (means[0] - means[1]).numpy()).max() <= 1


@pytest.fixture
def tiny_decoder(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    state = {name: 0.1 * torch.randn(shape, generator=draw) for name, shape in expected(TAESD).items()}
    path = tmp_path / "taesd_decoder.safetensors"
    write(path, to_theirs(written("tiny_decoder", "original").rules(TAESD), from_state(state)))
    return path


@pytest.mark.long
def test_a_tiny_decoder_previews_at_full_size(stand_in: Path, tiny_decoder: Path):
    model = marmo.load(stand_in, device="cpu", dtype="float32", preview=tiny_decoder)
    step = steps(model, request(num_images=2))[-1]
    assert [picture.size for picture in step.preview()] == [(64, 48), (64, 48)]
    assert len(set(levels(step.preview()[0]).flatten())) > 1


def test_a_preview_needs_a_tiny_decoder(stand_in: Path):
    with pytest.raises(ValueError, match="is no tiny decoder; a preview needs one in TAESD's layout"):
        marmo.load(stand_in, device="cpu", dtype="float32", preview=stand_in)


# Seeds


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"])
def test_a_picture_of_a_batch_is_the_picture_alone(model: LatentDiffusion, sampler: str):
    batch = model.generate(request(sampler=sampler, num_images=3)).images
    for index, picture in enumerate(batch):
        alone = model.generate(request(sampler=sampler, seed=7 + index)).images[0]
        assert apart(picture, alone) <= 1
    assert apart(batch[0], batch[1]) > 20


def test_the_start_of_every_picture_is_its_seeds_own(model: LatentDiffusion, asked: list[Question]):
    wanted = request(num_images=2, guidance_scale=1, steps=1)
    model.generate(wanted)
    sigma = model.sigmas(model.resolve(wanted))[0]
    for index in range(2):
        noise = TorchCpu([7 + index]).normal((4, 6, 8))
        assert torch.equal(asked[0].x[index : index + 1], noise * (1 + sigma**2).sqrt())


def test_the_start_of_a1111_is_noise_times_sigma(model: LatentDiffusion, asked: list[Question]):
    wanted = request(guidance_scale=1, steps=1, start="a1111")
    model.generate(wanted)
    assert torch.equal(asked[0].x, TorchCpu([7]).normal((4, 6, 8)) * model.sigmas(model.resolve(wanted))[0])


@pytest.mark.parametrize("source", ["philox", "comfy"])
def test_the_start_comes_from_the_named_source(model: LatentDiffusion, asked: list[Question], source: str):
    wanted = request(num_images=2, guidance_scale=1, steps=1, start="a1111", noise_source=source)
    model.generate(wanted)
    noise = NOISE_SOURCES[source]([7, 8]).start((4, 6, 8))
    assert torch.equal(asked[0].x, noise * model.sigmas(model.resolve(wanted))[0])


def test_a_variation_keeps_the_seed_and_counts_the_other(model: LatentDiffusion, asked: list[Question]):
    wanted = request(num_images=2, guidance_scale=1, steps=1, start="a1111", variation=Variation(seed=40, strength=0.3))
    result = model.generate(wanted)
    noise = slerp(TorchCpu([7, 7]).start((4, 6, 8)), TorchCpu([40, 41]).start((4, 6, 8)), 0.3)
    assert torch.equal(asked[0].x, noise * model.sigmas(model.resolve(wanted))[0])
    assert [record.seed for record in result.records] == [7, 7]


def test_the_path_of_a_picture_spans_the_whole_schedule(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    """Also where the run starts later, as in A1111: its noise does not depend on the strength."""
    spans: list[Tensor] = []
    path = TorchCpu.path

    def spy(source: TorchCpu, shape: list[int], sigmas: Tensor) -> sources.Path:
        spans.append(sigmas)
        return path(source, shape, sigmas)

    monkeypatch.setattr(TorchCpu, "path", spy)
    wanted = request(sampler="dpmpp_2m_sde", guidance_scale=1, init_image=png(), strength=0.4)
    model.generate(wanted)
    whole = model.sigmas(model.resolve(request(sampler="dpmpp_2m_sde")))
    assert len(spans) == 1 and spans[0].equal(whole)


@pytest.mark.long
def test_the_same_request_is_the_same_picture(model: LatentDiffusion, fresh: LatentDiffusion):
    for sampler in ("heun", "euler_ancestral", "dpmpp_sde"):
        pictures = [one.generate(request(sampler=sampler)).images for one in (model, model, fresh)]
        assert pictures[0] == pictures[1] == pictures[2]


# Guidance


def test_a_scale_of_1_is_the_conditional_model_bit_for_bit(model: LatentDiffusion):
    """Nothing else is asked, and nothing is mixed in where the guidance never acts."""
    with calls(model.unet) as batches:
        unguided = model.generate(request(guidance_scale=1, negative_prompt="dark")).images
    assert batches == [1, 1, 1]
    with calls(model.unet) as batches:
        model.generate(request(sampler="euler_cfg_pp", guidance_scale=1))
    assert batches == [2, 2, 2]  # CFG++ takes the noise of the unconditional answer
    never = Guidance(low_sigma=1e6)
    assert model.generate(request(guidance_scale=7, guidance=never, negative_prompt="dark")).images == unguided


@pytest.mark.long
def test_outside_the_interval_the_condition_alone_is_asked(model: LatentDiffusion):
    wanted = request(steps=6, guidance=Guidance(low_sigma=0.5, high_sigma=5))
    sigmas = model.sigmas(model.resolve(wanted))[:-1]
    with calls(model.unet) as batches:
        model.generate(wanted)
    assert batches == [2 if 0.5 < sigma <= 5 else 1 for sigma in sigmas]
    assert {1, 2} == set(batches)


@pytest.mark.long
def test_keys_and_values_of_a_prompt_are_made_once(model: LatentDiffusion):
    blocks = [module for module in model.unet.modules() if isinstance(module, TransformerBlock)]
    text = model.encoders.towers[0].network
    with calls(blocks[0].cross.k) as keys, calls(blocks[-1].cross.v) as values, calls(text.blocks[0]) as texts:
        model.generate(request(num_images=3, steps=5))
    assert texts == [1, 1]
    assert keys == values == [1, 1]


@pytest.mark.long
def test_a_negative_prompt_is_the_unconditional_row(model: LatentDiffusion):
    plain, negative = (model.generate(request(negative_prompt=prompt)).images[0] for prompt in ("", "dark, blurry"))
    assert apart(plain, negative) > 10
    same = model.generate(request(negative_prompt="a red fox", guidance_scale=7)).images[0]
    assert apart(same, model.generate(request(guidance_scale=1)).images[0]) <= 1  # the two rows cancel out


@pytest.mark.long
def test_every_knob_changes_the_picture(model: LatentDiffusion):
    before = model.generate(request()).images[0]
    changes: list[dict[str, object]] = [
        {"prompt": "a grey wolf"},
        {"guidance_scale": 3},
        {"guidance": Guidance(rescale=0.7)},
        {"guidance": Guidance(low_sigma=5)},
        {"seed": 8},
        {"steps": 4},
        {"sampler": "euler"},
        {"schedule": "normal"},
        {"start": "a1111"},
        {"clip_skip": 2},
        {"noise_source": "philox"},
        {"variation": Variation(seed=1, strength=0.3)},
        {"discard_penultimate": True},
    ]
    for change in changes:
        assert apart(model.generate(request(**change)).images[0], before) > 0, change


# From a picture


def test_strength_0_is_the_picture_encoded_and_decoded(model: LatentDiffusion):
    before, result = events(model, request(init_image=png(), strength=0))
    assert before == [Stage("encoding"), Stage("decoding")]
    pixels = to_tensor(Image.open(BytesIO(png())), 64, 48)
    latents = first_stage.encode(model.vae, pixels).sample(TorchCpu([7]).normal((4, 6, 8)))
    assert apart(result.images[0], to_pictures(first_stage.decode(model.vae, latents))[0]) == 0
    assert result.records[0].sigmas == (0.0,)


@pytest.mark.parametrize("strength", [0.34, 1.0])
def test_the_start_still_holds_the_picture(model: LatentDiffusion, asked: list[Question], strength: float):
    """Strength 1 runs all steps, yet keeps the picture below the noisiest level, as diffusers does."""
    wanted = request(init_image=png(), strength=strength, num_images=2)
    model.generate(wanted)
    sigma = model.sigmas(model.resolve(wanted))[0]
    assert asked[0].sigma == sigma
    source = TorchCpu([7, 8])
    latents = first_stage.encode(model.vae, to_tensor(Image.open(BytesIO(png())), 64, 48))
    x0, noise = latents.sample(source.normal((4, 6, 8))), source.normal((4, 6, 8))
    assert torch.equal(asked[0].x, x0 + noise * sigma)
    assert (asked[0].x - noise * sigma - x0).abs().max() < 1e-4 and x0.std() > 0.1


def test_strength_counts_steps(model: LatentDiffusion):
    def count(strength: float, start: str) -> int:
        wanted = request(init_image=png(), steps=10, strength=strength, start=start)
        return len(model.sigmas(model.resolve(wanted))) - 1

    strengths = (0.0, 0.05, 0.34, 0.75, 0.99, 1.0)
    assert [count(strength, "diffusers") for strength in strengths] == [0, 0, 3, 7, 9, 10]
    assert [count(strength, "a1111") for strength in strengths] == [1, 1, 4, 8, 10, 10]


@pytest.mark.long
def test_the_same_steps_left_are_the_same_picture(model: LatentDiffusion):
    one = model.generate(request(init_image=png(), steps=10, strength=0.4, start="diffusers")).images
    assert model.generate(request(init_image=png(), steps=10, strength=0.34, start="a1111")).images == one


@pytest.mark.long
def test_a_picture_gives_its_size_unless_one_is_asked_for(model: LatentDiffusion):
    picture = png(size=(71, 50))
    open_size = {"width": None, "height": None, "init_image": picture, "strength": 0.5}
    assert model.generate(request(**open_size)).images[0].size == (64, 48)
    assert model.generate(request(**open_size | {"width": 96, "height": 64})).images[0].size == (96, 64)


@pytest.mark.long
@pytest.mark.parametrize("data", [b"", b"no picture", png()[:200], b"\x89PNG\r\n\x1a\n" + b"x" * 50])
def test_a_picture_that_cannot_be_read_is_told_before_the_weights_are_read(stand_in: Path, data: bytes):
    opened = catalog.open_model(stand_in, "cpu", "float32")
    with pytest.raises(ValueError, match=r"^init_image: "):
        opened.generate(request(init_image=data))
    assert not opened.loaded


# Stopping, many pictures, questions


def test_stopping_after_a_step_stops_the_work(model: LatentDiffusion):
    with calls(model.unet) as batches:
        for event in model.stream(request(steps=5)):
            if isinstance(event, Step):
                break
    assert batches == [2]
    assert model.generate(request()).images == model.generate(request()).images


@pytest.mark.long
def test_two_streams_may_be_followed_in_turns(model: LatentDiffusion):
    wanted = [request(seed=1), request(seed=2, sampler="heun", width=48)]
    alone = [model.generate(one).images for one in wanted]
    streams = [model.stream(one) for one in wanted]
    results: dict[int, Result] = {}
    while len(results) < 2:
        for index, stream in enumerate(streams):
            event = next(stream, None)
            if isinstance(event, Result):
                results[index] = event
    assert [results[index].images for index in range(2)] == alone


@pytest.mark.long
def test_many_pictures_are_asked_in_several_calls(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    together = model.generate(request(num_images=4)).images
    residence = model.residence
    monkeypatch.setattr(residence, "thrift", replace(residence.thrift, latents_per_call=3 * 6 * 8))
    with calls(model.unet) as batches:
        apart_ = model.generate(request(num_images=4)).images
    assert batches == [3, 3, 2] * 3  # 4 pictures under 2 conditions
    assert max(map(apart, together, apart_)) <= 1
    monkeypatch.setattr(residence, "thrift", replace(residence.thrift, latents_per_call=1))
    with calls(model.unet) as batches:
        model.generate(request(num_images=2, steps=1))
    assert batches == [1, 1, 1, 1]


@pytest.mark.long
def test_questions_of_several_pictures_and_steps_stand_together(model: LatentDiffusion):
    """What the server's worker will do."""
    states = torch.randn(2, 77, 64, generator=torch.Generator().manual_seed(0))
    fox, wolf = (Condition(model.unet.project(row)) for row in torch.split(states, 1))
    x = torch.randn(4, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    questions = [
        Question(x[:1], torch.tensor(9.0), fox),
        Question(x[1:3], torch.tensor(0.5), wolf),
        Question(x[3:], torch.tensor(3.0), fox),
    ]
    together = model.ask(questions)
    assert [len(answer) for answer in together] == [1, 2, 1]
    for question, answer in zip(questions, together, strict=True):
        (alone,) = model.ask([question])
        assert torch.allclose(answer, alone, atol=1e-5 * float(alone.abs().max()))
    (other,) = model.ask([questions[0]._replace(condition=wolf)])
    assert (other - together[0]).abs().max() > 0.01


# Damaged weights


def first_weight(network: nn.Module) -> tuple[str, nn.Parameter]:
    return next((name, weight) for name, weight in network.named_parameters() if weight.ndim > 1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "value"),
    [("text", float("nan")), ("unet", float("nan")), ("vae", float("nan")), ("unet", float("inf"))],
)
def test_a_weight_that_is_no_number_is_named(fresh: LatentDiffusion, network: str, value: float):
    name, weight = first_weight(fresh.networks[network])
    weight.data.fill_(value)
    sentence = f"^stand-in.safetensors is damaged: {network} weight {name} holds values that are no numbers$"
    with pytest.raises(ValueError, match=sentence):
        fresh.generate(request(init_image=png()))


@pytest.mark.long
@pytest.mark.parametrize("network", ["text", "unet", "vae"])
def test_an_overflow_in_float32_is_damage_too(fresh: LatentDiffusion, network: str):
    for weight in fresh.networks[network].parameters():
        weight.data.fill_(3e38)
    with pytest.raises(ValueError, match=f"is damaged: its {network} overflows even in float32$"):
        fresh.generate(request())


@pytest.mark.long
def test_an_overflow_in_half_precision_asks_for_float32(stand_in: Path):
    card = catalog.find(stand_in)
    model = LatentDiffusion(card, torch.device("cpu"), torch.float16)
    model.load()
    for weight in model.networks["text"].parameters():
        weight.data.fill_(6e4)
    with pytest.raises(ValueError, match=r"^the text overflowed in float16; load the model with dtype float32$"):
        model.generate(request())


# Refusals


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 68}, "width 68 is not a multiple of 8; the nearest are 64 and 72"),
        ({"strength": 0.5}, "strength needs an init_image"),
        ({"eta": 0.5}, "eta means nothing to dpmpp_2m"),
        ({"clip_skip": 5}, "clip skip 5 asks for a layer that this text encoder does not have"),
    ],
)
def test_a_request_that_cannot_be_painted(model: LatentDiffusion, fields: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        model.generate(request(**fields))


@pytest.mark.long
def test_the_smallest_picture(model: LatentDiffusion):
    assert model.generate(request(width=8, height=8)).images[0].size == (8, 8)
