"""Whole pictures changed in parts or by instruction: what is kept, what is asked, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import marmo
from benchmarks.checkpoint import random_checkpoint
from marmo.diffusion.samplers import Prediction, Query
from marmo.diffusion.sources import TorchCpu
from marmo.nn.engine import Wrap
from marmo.pipelines.beginning import Opening
from marmo.pipelines.inpaint import Kept
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Question
from marmo.request import ImageRequest, Inpaint, Outpaint, Refiner
from marmo.weights.kinds import Task
from tests.pipelines.test_canvas import marked, photo, pixels, png

PICTURE = photo(60, 44)
MASK = marked((60, 44), (17, 10, 41, 30))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, LatentDiffusion]:
    folder = tmp_path_factory.mktemp("editing")
    tasks: list[Task] = ["paint", "inpaint", "edit"]
    files = {task: random_checkpoint(folder / f"{task}.safetensors", task=task) for task in tasks}
    return {task: marmo.load(file, device="cpu", dtype="float32") for task, file in files.items()}


def request(**fields: object) -> ImageRequest:
    """A part of a picture in few steps."""
    usual = {"prompt": "a fox", "steps": 2, "seed": 7, "init_image": png(PICTURE), "mask": png(MASK)}
    return ImageRequest(**{**usual, **fields})


def painted(model: LatentDiffusion, **fields: object) -> np.ndarray:
    return pixels(model.generate(request(**fields)).images[0])


def asked(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Every question that the pipeline asks from now on."""
    questions: list[Question] = []
    answer = model.ask

    def ask(batch: list[Question]) -> list[Tensor]:
        questions.extend(batch)
        return answer(batch)

    monkeypatch.setattr(model, "ask", ask)
    return questions


# The kept part


@pytest.mark.long
@pytest.mark.parametrize("task", ["paint", "inpaint", "edit"])
@pytest.mark.parametrize("area", ["picture", "masked"])
@pytest.mark.parametrize("fill", ["original", "blurred", "noise", "blank"])
@pytest.mark.parametrize("feather", [0, 1])
@pytest.mark.parametrize("soft", [False, True])
def test_untouched_pixels_are_those_of_the_picture(models, task, area, fill, feather, soft):
    settings = Inpaint(area=area, fill=fill, feather=feather, soft=soft)
    result = painted(models[task], inpaint=settings, strength=1.0, width=64, height=48, steps=1, guidance_scale=1)
    touched = (result != pixels(PICTURE)).any(axis=-1)
    reach = 3 * feather
    rows, columns = np.nonzero(touched)
    assert rows.min() >= 10 - reach and rows.max() < 30 + reach
    assert columns.min() >= 17 - reach and columns.max() < 41 + reach
    assert touched[10:30, 17:41].mean() > 0.9


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "heun", "dpmpp_2m_sde", "lms", "unipc", "euler_cfg_pp"])
@pytest.mark.parametrize("start", ["diffusers", "a1111"])
def test_the_walk_ends_in_the_latents_of_the_picture(models, sampler: str, start: str):
    """Also before anything is laid over it, with every kind of solver."""
    model = models["paint"]
    wanted = model.resolve(request(sampler=sampler, schedule="trailing", start=start, steps=4))
    ends: list[Tensor] = []
    decode = model.decode

    def spy(latents: Tensor, wrap: Wrap) -> tuple[Tensor, bool]:
        ends.append(latents)
        return decode(latents, wrap)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "decode", spy)
        model.generate(wanted)
    opening = Opening.of(model, wanted, model.sigmas(wanted), TorchCpu([7]))
    kept = opening.begin().kept
    assert kept is not None
    outside = ~kept.free(0).expand_as(kept.known)
    assert torch.allclose(ends[0][outside], kept.known[outside], atol=2e-4)
    assert not torch.allclose(ends[0][~outside], kept.known[~outside], atol=0.1)


def test_a_batch_keeps_the_picture_in_every_one(models):
    result = models["paint"].generate(request(num_images=3, inpaint=Inpaint(feather=0)))
    for picture in result.images:
        outside = np.ones((44, 60), dtype=bool)
        outside[10:30, 17:41] = False
        assert np.array_equal(pixels(picture)[outside], pixels(PICTURE)[outside])
    first, second, _ = (pixels(picture) for picture in result.images)
    assert np.abs(first - second).max() > 10


@pytest.mark.long
def test_a_picture_of_a_batch_is_the_picture_alone(models):
    for model in models.values():
        batch = model.generate(request(num_images=2)).images
        alone = model.generate(request(seed=8)).images[0]
        assert np.abs(pixels(batch[1]) - pixels(alone)).max() <= 1


@pytest.mark.long
def test_every_setting_changes_the_picture(models):
    model = models["paint"]
    before = painted(model, strength=0.5)
    settings = [
        Inpaint(fill="blurred"), Inpaint(fill="noise"), Inpaint(fill="blank"), Inpaint(grow=3), Inpaint(feather=0),
        Inpaint(soft=True), Inpaint(invert=True),
    ]  # fmt: skip
    results = [painted(model, strength=0.5, inpaint=setting) for setting in settings]
    results.append(painted(model, strength=0.5, inpaint=Inpaint(area="masked"), width=64, height=48))
    results.append(painted(model, strength=0.5, inpaint=Inpaint(area="masked", padding=2), width=64, height=48))
    for index, result in enumerate(results):
        assert np.abs(result - before).max() > 3, index
        assert all(np.abs(result - other).max() > 3 for other in results[:index]), index


@pytest.mark.long
def test_outpainting_adds_its_sides(models):
    for model in models.values():
        wanted = request(mask=None, outpaint=Outpaint(left=16, top=8), inpaint=Inpaint(feather=0))
        result = model.generate(wanted)
        picture = pixels(result.images[0])
        assert picture.shape == (52, 76, 3)
        assert np.array_equal(picture[8:, 16:], pixels(PICTURE))
        assert picture[:8].std() > 5 and picture[:, :16].std() > 5
        record = result.records[0].request
        assert (record.strength, record.inpaint.fill, record.width, record.height) == (1.0, "blurred", 80, 56)


def test_shares_of_strength_are_kept_until_their_time():
    """At step i of 4 a latent is free if its share is at least 1 - i / 4."""
    share = torch.tensor([0.0, 0.24, 0.25, 0.5, 0.75, 0.99, 1.0]).view(1, 1, 1, 7)
    kept = Kept(torch.zeros(1, 1, 1, 7), share, soft=True, total=4)
    free = [kept.free(index).flatten().tolist() for index in range(4)]
    assert [sum(row) for row in free] == [1, 3, 4, 5]
    hard = Kept(torch.zeros(1, 1, 1, 7), share, soft=False, total=4)
    assert [int(hard.free(index).sum()) for index in range(4)] == [4] * 4


def test_the_kept_part_of_every_answer_is_the_pictures():
    known, share = torch.full((2, 4, 1, 2), 3.0), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    noise = torch.randn(2, 4, 1, 2)
    query = Query(torch.full((2, 4, 1, 2), 9.0), torch.tensor(2.0), 0)
    for shown, wanted in ((noise, known + 2 * noise), (None, query.x)):
        kept = Kept(known, share, False, 1, shown)
        seen = kept.shown(query).x
        assert torch.equal(seen[..., :1], wanted[..., :1]) and torch.equal(seen[..., 1:], query.x[..., 1:])
        answer = kept.keep(query, Prediction(torch.zeros_like(seen), torch.ones_like(seen)))
        for part, inside in ((answer.x0, 0.0), (answer.cond, 1.0)):
            assert part is not None
            assert (part[..., 0] == 3).all() and (part[..., 1] == inside).all()
        assert answer.uncond is None


# What the network sees


def test_a_model_for_inpainting_sees_the_mask_and_what_is_kept(models, monkeypatch: pytest.MonkeyPatch):
    questions = asked(models["inpaint"], monkeypatch)
    models["inpaint"].generate(request(steps=1))
    beside = questions[0].condition.beside
    assert beside is not None and beside.shape == (1, 5, 6, 8)
    wanted = torch.zeros(6, 8)
    wanted[1:4, 2:6] = 1
    assert torch.equal(beside[0, 0], wanted)
    other = request(steps=1, init_image=png(Image.composite(Image.new("RGB", PICTURE.size), PICTURE, MASK)))
    models["inpaint"].generate(other)
    assert torch.equal(questions[-1].condition.beside, beside)  # what lies under the mask is hidden


def test_a_model_for_inpainting_paints_from_words_too(models, monkeypatch: pytest.MonkeyPatch):
    """All of it is masked then; and a whole picture is only its start."""
    questions = asked(models["inpaint"], monkeypatch)
    picture = models["inpaint"].generate(ImageRequest(prompt="a fox", steps=1, seed=1, width=64, height=48)).images[0]
    assert picture.size == (64, 48)
    models["inpaint"].generate(request(mask=None, steps=1))
    for question in questions:
        assert question.condition.beside is not None and (question.condition.beside[:, 0] == 1).all()


def test_three_rows_with_two_scales(models, monkeypatch: pytest.MonkeyPatch):
    """Neither, the picture, the picture and the words."""
    questions = asked(models["edit"], monkeypatch)
    models["edit"].generate(request(mask=None, steps=1))
    assert [bool(question.condition.beside.any()) for question in questions] == [False, True, True]
    models["edit"].generate(request(mask=None, steps=1, image_guidance_scale=1))
    assert len(questions) == 3 + 2
    models["edit"].generate(request(mask=None, steps=1, image_guidance_scale=1, guidance_scale=1))
    assert len(questions) == 3 + 2 + 1


@pytest.mark.long
def test_both_scales_change_the_picture(models):
    before, *others = (
        painted(models["edit"], mask=None, **scales)
        for scales in (
            {},
            {"image_guidance_scale": 3},
            {"image_guidance_scale": 0},
            {"guidance_scale": 3},
            {"guidance_scale": 1},
            {"prompt": "a fox AND snow"},
            {"strength": 0.5},
        )
    )
    for index, other in enumerate(others):
        assert np.abs(other - before).max() > 3, index


# Records


def test_a_record_holds_the_hashes_of_both_pictures(models, tmp_path: Path):
    result = models["paint"].generate(request(inpaint=Inpaint(grow=2, soft=True)))
    record = result.records[0]
    assert sorted(record.inputs) == ["init_image", "mask"]
    assert record.request.mask is None and record.request.inpaint == Inpaint(grow=2, soft=True, fill="original")
    assert type(record).from_json(record.to_json()) == record


# Refusals


@pytest.mark.parametrize(
    ("task", "fields", "words"),
    [
        ("paint", {"init_image": None}, "mask needs an init_image that it marks"),
        ("paint", {"init_image": None, "mask": None, "outpaint": Outpaint(left=8)}, "outpaint needs an init_image"),
        ("paint", {"mask": None, "inpaint": Inpaint(grow=1)}, "inpaint.grow needs a mask, or pixels to outpaint"),
        ("paint", {"inpaint": Inpaint(padding=3)}, "inpaint.padding needs inpaint.area masked"),
        ("paint", {"mask": None, "outpaint": Outpaint(top=8), "inpaint": Inpaint(invert=True)}, "invert needs a mask"),
        ("paint", {"image_guidance_scale": 1.5}, "image_guidance_scale means nothing to this model"),
        ("inpaint", {"image_guidance_scale": 1.5}, "image_guidance_scale means nothing to this model"),
        ("edit", {"init_image": None, "mask": None}, "edit.safetensors changes a picture as the prompt tells it to"),
        ("edit", {"inpaint": Inpaint(fill="noise")}, "inpaint.fill noise needs a strength"),
        ("paint", {"mask": png(Image.new("L", (60, 44)))}, "mask marks nothing"),
        ("paint", {"mask": png(Image.new("L", (44, 60), 255))}, "mask is 44 x 60 pixels and init_image 60 x 44"),
    ],
)
def test_what_cannot_act_is_refused(models, task: Task, fields: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        models[task].generate(request(**fields))


def test_a_refiner_must_paint_from_words(models, tmp_path: Path):
    file = random_checkpoint(tmp_path / "r.safetensors", task="inpaint")
    with pytest.raises(ValueError, match=r"cannot refine .* it was trained to inpaint"):
        marmo.load(models["paint"].card.path, device="cpu", dtype="float32", refiner=file)


@pytest.mark.long
def test_a_refiner_paints_on_what_is_left(models):
    file = models["paint"].card.path
    model = marmo.load(file, device="cpu", dtype="float32", refiner=file)
    refiner = Refiner(model=str(file), switch=0.5)
    result = pixels(model.generate(request(refiner=refiner, steps=3, inpaint=Inpaint(feather=0))).images[0])
    assert np.array_equal(result[30:], pixels(PICTURE)[30:]) and (result[10:30, 17:41] != 0).any()
