"""The models that come with Marmo: their files, their floors, and that diffusers paints what they paint.

A stand-in is bundled for these tests and must pass them all; so they run, and can fail, before any model is there.
"""

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

import marmo
from marmo.bundling import trial
from marmo.bundling.__main__ import MAX_FILE, MAX_WEIGHTS
from marmo.cards import latent_card
from marmo.data.known_words import KnownWords
from marmo.library import bundled
from marmo.library.places import Place
from marmo.library.scan import candidates
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest
from marmo.request_parts import EVERYWHERE
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder

OWN = bundled.bundled_models()
ALIKE = 40.0  # decibels: rounding apart, the same picture


@pytest.fixture(params=[pytest.param(path, id=path.name) for path in OWN] + [pytest.param(None, id="stand-in")])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("bundle").output if request.param is None else request.param


@pytest.fixture
def model(folder: Path) -> LatentDiffusion:
    return marmo.load(folder, device="cpu", dtype="float32")


@pytest.mark.long
def test_its_files_are_those_of_the_sums(folder: Path):
    sums = {name: digest for name, digest in bundled.read_sums(folder.parent).items() if name.startswith(folder.name)}
    files = {file.relative_to(folder.parent).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert sums == {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert max(file.stat().st_size for file in files.values()) <= MAX_FILE


@pytest.mark.long
def test_it_is_small_licensed_and_found(folder: Path):
    checkpoint = open_checkpoint(folder)
    assert sum(file.stat().st_size for file in checkpoint.files) <= MAX_WEIGHTS
    assert latent_card(checkpoint).licence == "apache-2.0"
    text = (folder / "README.md").read_text()
    assert all(word in text for word in ("Twemoji", "CC-BY 4.0", "creativecommons.org/licenses/by/4.0", "CLDR"))
    assert [found.name for found in candidates([Place("bundled", folder.parent)])] == [folder.name]


@pytest.mark.long
def test_it_reaches_its_floor(model: LatentDiffusion, folder: Path):
    """24 pictures; the floor is what was measured when it was bundled, less three of them."""
    floors = trial.Floors.of(open_checkpoint(folder))
    asked = trial.asked(model.card.concepts)
    painted = trial.pictures(model, trial.requests(model, asked))
    assert len(asked) == 24 and trial.share_right(asked, painted) >= floors.right
    assert floors.psnr >= 15


@pytest.mark.parametrize("folder", OWN, ids=lambda path: path.name)
def test_the_demo_asks_for_nothing_that_it_does_not_know(folder: Path):
    known = KnownWords(latent_card(open_checkpoint(folder)).concepts)
    demo = (Path(__file__).parents[2] / "docs" / "demo.txt").read_text(encoding="utf-8").splitlines()
    prompts = [line for line in demo if line and not line.startswith("#")]
    assert len(prompts) == 6 and not [prompt for prompt in prompts if known.unknown(prompt)]
    assert known.unknown("a queen")


@pytest.mark.long
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_its_export_paints_the_same_here_and_in_diffusers(model: LatentDiffusion, folder: Path, tmp_path: Path):
    """To the bit here; in diffusers, whose kernels round otherwise, to more than any eye sees."""
    write_folder(open_checkpoint(folder), tmp_path / "export", torch.float32)
    request = ImageRequest(
        prompt="a red fox", seed=7, sampler="ddim", schedule="trailing", steps=4, guidance=EVERYWHERE
    )
    mine = model.generate(request)
    again = marmo.load(tmp_path / "export", device="cpu", dtype="float32").generate(request)
    assert again.images[0].tobytes() == mine.images[0].tobytes()
    assert again.records[0].request.steps == 4 and latent_card(open_checkpoint(tmp_path / "export")).licence
    theirs = in_diffusers(tmp_path / "export", model.resolve(request))
    assert float(trial.decibels([theirs], mine.images)[0]) >= ALIKE


def in_diffusers(folder: Path, request: ImageRequest) -> Image.Image:
    """The picture of a resolved request, from the folder as it stands."""
    peers = pytest.importorskip("diffusers")
    pipeline = peers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == request.width
    options = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    pipeline.scheduler = peers.DDIMScheduler.from_config(pipeline.scheduler.config, **options)
    return pipeline(
        request.prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]
