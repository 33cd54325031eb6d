"""Inpainting and editing by instruction against diffusers' pipelines: the same weights on disk, the same pixels.

As in `test_pipeline.py`, every weight is drawn from a normal, at a scale that keeps the variance.  What diffusers shows
is what the autoencoder gives, also of the kept part; so ours is compared before the kept pixels are laid over it.
"""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import marmo
from benchmarks.checkpoint import CHANNELS, FAMILIES, FamilyName
from marmo.models.unet import UNetConfig
from marmo.pipelines import first_stage
from marmo.pipelines.events import Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.pixels import to_pictures
from marmo.request import ImageRequest, Inpaint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.kinds import PIPELINES, Task
from marmo.weights.maps.unet import config_to_json as unet_to_json
from marmo.weights.maps.vae import config_to_json as vae_to_json
from tests.parity.test_pipeline import (
    CASES,
    NEGATIVE,
    PROMPT,
    STEPS,
    Case,
    Pictures,
    assert_same,
    drawn,
    far_apart,
    peers,
    theirs,
)
from tests.parity.test_pipeline_sdxl import loaded, saved, text_model, tokenizer

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

DDIM, EULER, ANCESTRAL, HEUN, KARRAS = CASES[0], CASES[2], CASES[4], CASES[5], CASES[6]
HOLE = (32, 16, 72, 48)
"""Left, top, right and bottom, on whole latents: diffusers reads the mask at their corners, we at every pixel."""
NOISE = Inpaint(fill="noise")
"""As diffusers begins at strength 1."""


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Soft colours with an edge."""
    y, x = np.mgrid[:64, :96] / 64
    return Image.fromarray((np.stack([x / 1.5, y, (x + y) % 1], axis=-1) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def mask(photo: Image.Image) -> Image.Image:
    hole = Image.new("L", photo.size)
    ImageDraw.Draw(hole).rectangle((HOLE[0], HOLE[1], HOLE[2] - 1, HOLE[3] - 1), fill=255)
    return hole


def png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def peer_of(task: Task, folder: Path, family: FamilyName = "sd1"):
    """A tiny pipeline of diffusers with random weights."""
    kind, sizes = FAMILIES[family]
    configs = sizes["toy"]
    assert isinstance(configs["unet"], UNetConfig)
    unet = replace(configs["unet"], in_channels=CHANNELS[task])
    make = peers.StableDiffusionInstructPix2PixPipeline if task == "edit" else peers.StableDiffusionInpaintPipeline
    pipeline = make(
        text_encoder=text_model(kind.for_folder(configs["text"]), 1),
        tokenizer=tokenizer(folder / "tokenizer", pad=0 if family == "sd2" else None),
        unet=drawn(peers.UNet2DConditionModel.from_config(unet_to_json(unet)), 2),
        vae=drawn(peers.AutoencoderKL.from_config(vae_to_json(configs["vae"])), 3),
        scheduler=peers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, loaded(saved(pipeline, folder / "peer", DDIM))


Pair = tuple[object, LatentDiffusion]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return peer_of("paint", tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return peer_of("inpaint", tmp_path_factory.mktemp("nine"))


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return peer_of("edit", tmp_path_factory.mktemp("eight"))


def ours(model: LatentDiffusion, case: Case, **options: object) -> Pictures:
    """As the autoencoder gives it."""
    defaults = {"prompt": PROMPT, "steps": STEPS, "guidance_scale": 7.5, "seed": 7, "start": case.start}
    wanted = ImageRequest(**defaults | {"sampler": case.sampler, "schedule": case.schedule} | options)
    last = [event for event in model.stream(wanted) if isinstance(event, Step)][-1]
    return to_pictures(first_stage.decode(model.vae, last.x0))


@pytest.mark.parametrize("strength", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("case", [DDIM, EULER, ANCESTRAL, HEUN, KARRAS], ids=str)
def test_inpainting_with_a_model_for_everything(four: Pair, photo, mask, case: Case, strength: float):
    """The fresh noise of an ancestral step too.  Their masked picture, which nothing reads, shall draw no noise."""
    peer, model = four
    options = {"init_image": png(photo), "mask": png(mask), "strength": strength}
    mine = ours(model, case, **options, inpaint=NOISE if strength == 1 else Inpaint())
    unread = torch.zeros(1, 4, 8, 12)
    given = {"image": photo, "mask_image": mask, "strength": strength, "width": 96, "height": 64}
    assert_same(mine, theirs(peer, case, **given, masked_image_latents=unread))


def test_what_is_shown_of_it_is_inside_the_hole(four: Pair, photo, mask):
    peer, model = four
    fields = {"prompt": PROMPT, "steps": STEPS, "guidance_scale": 7.5, "seed": 7, "sampler": "ddim"}
    fields |= {"schedule": "leading", "init_image": png(photo), "mask": png(mask), "strength": 0.75}
    mine = model.generate(ImageRequest(**fields, inpaint=Inpaint(feather=0))).images[0]
    given = {"image": photo, "mask_image": mask, "strength": 0.75, "width": 96, "height": 64}
    (other,) = theirs(peer, DDIM, **given)
    pasted = photo.copy()
    pasted.paste(other.crop(HOLE), HOLE[:2])
    assert_same([mine], [pasted])


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("case", [DDIM, ANCESTRAL, KARRAS], ids=str)
def test_inpainting_with_a_model_for_it(nine: Pair, photo, mask, case: Case, strength: float):
    peer, model = nine
    options = {"init_image": png(photo), "mask": png(mask), "strength": strength, "negative_prompt": NEGATIVE}
    mine = ours(model, case, **options, inpaint=NOISE if strength == 1 else Inpaint())
    given = {"image": photo, "mask_image": mask, "strength": strength, "width": 96, "height": 64}
    assert_same(mine, theirs(peer, case, **given, negative_prompt=NEGATIVE))
    assert far_apart(mine, ours(model, case, **options | {"init_image": png(Image.new("RGB", photo.size))}))


def test_stable_diffusion_2_inpaints_too(photo, mask, tmp_path: Path):
    peer, model = peer_of("inpaint", tmp_path, "sd2")
    assert model.card.target == "eps"
    mine = ours(model, DDIM, init_image=png(photo), mask=png(mask), inpaint=NOISE)
    given = {"image": photo, "mask_image": mask, "width": 96, "height": 64}
    assert_same(mine, theirs(peer, DDIM, **given))


@pytest.mark.parametrize(
    ("task", "case", "strength"), [("inpaint", DDIM, 0.75), ("inpaint", EULER, 0.99), ("paint", DDIM, 0.75)]
)
def test_sdxl_inpaints_too(photo, mask, tmp_path: Path, task: Task, case: Case, strength: float):
    """With nine channels and with four.  diffusers begins in noise alone from a strength of 1 on."""
    sizes = FAMILIES["sdxl"][1]["toy"]
    assert isinstance(sizes["unet"], UNetConfig)
    unet = replace(sizes["unet"], in_channels=CHANNELS[task])
    peer = peers.StableDiffusionXLInpaintPipeline(
        text_encoder=text_model(sizes["text"], 1),
        text_encoder_2=text_model(sizes["text2"], 4),
        tokenizer=tokenizer(tmp_path / "tokenizer"),
        tokenizer_2=tokenizer(tmp_path / "tokenizer_2", pad=0),
        unet=drawn(peers.UNet2DConditionModel.from_config(unet_to_json(unet)), 2),
        vae=drawn(peers.AutoencoderKL.from_config(vae_to_json(sizes["vae"])), 3),
        scheduler=peers.DDIMScheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    model = loaded(saved(peer, tmp_path / "peer", case))
    assert model.card.task == task
    options = {"init_image": png(photo), "mask": png(mask), "strength": strength, "negative_prompt": NEGATIVE}
    given = {"image": photo, "mask_image": mask, "strength": strength, "width": 96, "height": 64}
    assert_same(ours(model, case, **options), theirs(peer, case, **given, negative_prompt=NEGATIVE))


@pytest.mark.parametrize("scales", [(7.5, 1.5), (3.0, 1.0), (7.5, 3.0)], ids=str)
@pytest.mark.parametrize("case", [DDIM, ANCESTRAL, KARRAS], ids=str)
def test_editing_by_instruction(eight: Pair, photo, case: Case, scales: tuple[float, float]):
    peer, model = eight
    words, picture = scales
    options = {"init_image": png(photo), "guidance_scale": words, "negative_prompt": NEGATIVE}
    mine = ours(model, case, **options, image_guidance_scale=picture)
    given = {"image": photo, "guidance_scale": words, "image_guidance_scale": picture, "negative_prompt": NEGATIVE}
    assert_same(mine, theirs(peer, case, **given))


def test_editing_of_several_pictures(eight: Pair, photo):
    peer, model = eight
    mine = ours(model, ANCESTRAL, init_image=png(photo), num_images=2)
    assert_same(mine, theirs(peer, ANCESTRAL, image=photo, image_guidance_scale=1.5, num_images_per_prompt=2))


def test_editing_without_a_pull_asks_once(eight: Pair, photo):
    peer, model = eight
    mine = ours(model, DDIM, init_image=png(photo), guidance_scale=1.0, image_guidance_scale=1.0)
    assert_same(mine, theirs(peer, DDIM, image=photo, guidance_scale=1.0, image_guidance_scale=1.5))


@pytest.mark.parametrize("task", ["inpaint", "edit"])
def test_diffusers_paints_with_what_we_write(task: Task, request: pytest.FixtureRequest, photo, mask, tmp_path: Path):
    peer, model = request.getfixturevalue({"inpaint": "nine", "edit": "eight"}[task])
    given = {"image": photo} if task == "edit" else {"image": photo, "mask_image": mask, "width": 96, "height": 64}
    before = theirs(peer, DDIM, **given)
    write_folder(open_checkpoint(model.card.path), tmp_path / "folder")
    opened = peers.DiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert type(opened).__name__ == f"StableDiffusion{PIPELINES[task]}"
    opened.set_progress_bar_config(disable=True)
    assert np.array_equal(np.asarray(theirs(opened, DDIM, **given)[0]), np.asarray(before[0]))
    write_single_file(open_checkpoint(model.card.path), tmp_path / "single.safetensors")
    single = marmo.load(tmp_path / "single.safetensors", device="cpu", dtype="float32")
    options = {"init_image": png(photo)} if task == "edit" else {"init_image": png(photo), "mask": png(mask)}
    assert np.array_equal(*(np.asarray(ours(one, DDIM, **options)[0]) for one in (single, model)))
