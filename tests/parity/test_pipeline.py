"""Whole pictures against diffusers' pipelines: the same weights on disk, the same request, the same pixels.

Every weight is drawn from a normal, norms and biases too, at a scale that keeps the variance, so that the pictures have
contrast and no wrong wire can hide behind a zero.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import marmo
from benchmarks.checkpoint import SIZES
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import Guidance, ImageRequest
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.maps.clip_config import text_config_to_json
from marmo.weights.maps.unet import config_to_json as unet_to_json
from marmo.weights.maps.vae import config_to_json as vae_to_json

peers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

PROMPT, NEGATIVE = "a red fox in the snow", "blurry, dark"
STEPS = 6
TOY = SIZES["toy"]

Pictures = list[Image.Image]


class FractionalClock(peers.DPMSolverMultistepScheduler):
    """diffusers rounds the times of Karras' levels for this solver alone; see docs/samplers.md."""

    def set_timesteps(self, *args: object, **options: object) -> None:
        super().set_timesteps(*args, **options)
        table = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().log().numpy()
        times = [self._sigma_to_t(sigma, table) for sigma in self.sigmas[:-1].numpy()]
        self.timesteps = torch.tensor(np.array(times), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """Our sampler and schedule, and the scheduler that does the same."""

    sampler: str
    schedule: str
    peer: type
    options: dict[str, object] = field(default_factory=dict)
    start: str = "diffusers"

    def __str__(self) -> str:
        return f"{self.sampler}-{self.schedule}"


LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
CASES = [
    Case("ddim", "leading", peers.DDIMScheduler, LEADING | {"clip_sample": False, "set_alpha_to_one": True}),
    Case("ddpm", "leading", peers.DDPMScheduler, LEADING | {"clip_sample": False}),
    Case("euler", "leading", peers.EulerDiscreteScheduler, LEADING),
    Case("euler", "karras", peers.EulerDiscreteScheduler, {"use_karras_sigmas": True}, start="a1111"),
    Case("euler_ancestral", "leading", peers.EulerAncestralDiscreteScheduler, LEADING),
    Case("heun", "leading", peers.HeunDiscreteScheduler, LEADING),
    Case("dpmpp_2m", "karras", FractionalClock, {"use_karras_sigmas": True}),
    Case("dpmpp_2m", "trailing", peers.DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
]
DDIM, ANCESTRAL, KARRAS = CASES[0], CASES[4], CASES[6]


def drawn(module: nn.Module, seed: int) -> nn.Module:
    draw = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=draw)
        if weight.ndim > 1:
            weight.data = noise / math.sqrt(math.prod(weight.shape[1:]))
        else:
            weight.data = 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    peers.utils.logging.disable_progress_bar()
    peers.utils.logging.set_verbosity_error()
    yield


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory):
    """A tiny StableDiffusionPipeline with random weights."""
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_tokenizer().save(folder)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_config_to_json(TOY["text"])))
    pipeline = peers.StableDiffusionPipeline(
        text_encoder=drawn(text, 1),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder),
        unet=drawn(peers.UNet2DConditionModel.from_config(unet_to_json(TOY["unet"])), 2),
        vae=drawn(peers.AutoencoderKL.from_config(vae_to_json(TOY["vae"])), 3),
        scheduler=scheduler(DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peer") / "folder"
    peer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LatentDiffusion:
    return marmo.load(folder, device="cpu", dtype="float32")


def scheduler(case: Case):
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **case.options}
    return case.peer(**options)


def theirs(pipeline, case: Case, **options: object) -> Pictures:
    """With a generator of its own for every picture, as ours has."""
    pipeline.scheduler = scheduler(case)
    seeds = range(7, 7 + options.get("num_images_per_prompt", 1))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    defaults = {"height": 64, "width": 64} if "image" not in options else {}
    defaults |= {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": 7.5, "generator": generators}
    return pipeline(**defaults | options).images


def ours(model: LatentDiffusion, case: Case, **options: object) -> Pictures:
    defaults = {"prompt": PROMPT, "steps": STEPS, "guidance_scale": 7.5, "seed": 7, "width": 64, "height": 64}
    defaults |= {"sampler": case.sampler, "schedule": case.schedule, "start": case.start}
    return list(model.generate(ImageRequest(**defaults | options)).images)


def assert_same(mine: Pictures, peers_: Pictures) -> None:
    """At most one level of 255 apart, in pictures that have contrast."""
    assert len(mine) == len(peers_)
    for left, right in zip(mine, peers_, strict=True):
        assert left.size == right.size
        a, b = np.asarray(left, dtype=int), np.asarray(right, dtype=int)
        print(f"{np.abs(a - b).max()} of 255, {np.mean(a != b):.2%} of the values")
        assert np.abs(a - b).max() <= 1
        assert 20 < b.std() < 110  # it says something, and is not black and white alone


def far_apart(left: Pictures, right: Pictures) -> bool:
    return np.abs(np.asarray(left[0], dtype=int) - np.asarray(right[0], dtype=int)).max() > 10


every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_text_to_image(peer, model: LatentDiffusion, case: Case, scale: float):
    assert_same(ours(model, case, guidance_scale=scale), theirs(peer, case, guidance_scale=scale))


def test_a_negative_prompt(peer, model: LatentDiffusion):
    mine = ours(model, DDIM, negative_prompt=NEGATIVE)
    assert_same(mine, theirs(peer, DDIM, negative_prompt=NEGATIVE))
    assert far_apart(mine, ours(model, DDIM))
    assert far_apart(mine, ours(model, DDIM, negative_prompt=NEGATIVE, prompt="a grey wolf"))


def test_guidance_rescale(peer, model: LatentDiffusion):
    mine = ours(model, DDIM, guidance=Guidance(rescale=0.7))
    assert_same(mine, theirs(peer, DDIM, guidance_rescale=0.7))
    assert far_apart(mine, ours(model, DDIM))


@pytest.mark.parametrize(("width", "height"), [(104, 72), (72, 104), (128, 64), (8, 24)])
def test_sizes(peer, model: LatentDiffusion, width: int, height: int):
    """Multiples of 8 that the U-Net must halve with a rest."""
    assert_same(ours(model, DDIM, width=width, height=height), theirs(peer, DDIM, width=width, height=height))


def test_clip_skip(peer, model: LatentDiffusion):
    """As A1111: 1 is the last layer, and both prompts are read alike.

    diffusers' own `clip_skip` counts the layers left out and leaves the negative prompt as it is, and 0.42 fails with
    transformers 5; so its pipeline is given the states.
    """

    def states(prompt: str) -> torch.Tensor:
        ids = peer.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden = peer.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        return getattr(peer.text_encoder, "text_model", peer.text_encoder).final_layer_norm(hidden)

    mine = ours(model, DDIM, clip_skip=2)
    given = {"prompt": None, "prompt_embeds": states(PROMPT), "negative_prompt_embeds": states("")}
    assert_same(mine, theirs(peer, DDIM, **given))
    assert far_apart(mine, ours(model, DDIM))


@pytest.mark.parametrize("case", [DDIM, ANCESTRAL], ids=str)
def test_several_pictures(peer, model: LatentDiffusion, case: Case):
    assert_same(ours(model, case, num_images=2), theirs(peer, case, num_images_per_prompt=2))


def test_fresh_noise(peer, model: LatentDiffusion):
    mine = ours(model, DDIM, eta=0.5)
    assert_same(mine, theirs(peer, DDIM, eta=0.5))
    assert far_apart(mine, ours(model, DDIM))


def test_a_long_prompt_is_read_in_chunks(peer, model: LatentDiffusion):
    """diffusers cuts it off; so its pipeline is given the states of both chunks, one after the other."""

    def states(prompt: str) -> torch.Tensor:
        ids = peer.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return peer.text_encoder(ids).last_hidden_state

    given = {"prompt": None, "prompt_embeds": torch.cat([states("fox " * 75), states("snow " * 5)], dim=1)}
    given["negative_prompt_embeds"] = torch.cat([states("dark " * 75), states("night " * 5)], dim=1)
    fields = {"prompt": "fox " * 75 + "snow " * 5, "negative_prompt": "dark " * 75 + "night " * 5}
    assert_same(ours(model, DDIM, **fields), theirs(peer, DDIM, **given))


# Image to image


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Soft colours with an edge."""
    y, x = np.mgrid[:64, :96] / 64
    colours = np.stack([x / 1.5, y, (x + y) % 1], axis=-1)
    return Image.fromarray((colours * 255).astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("case", "strength"),
    [
        *((case, 0.75) for case in CASES if case.start == "diffusers"),
        *((case, strength) for case in (DDIM, ANCESTRAL, KARRAS) for strength in (0.34, 1.0)),
    ],
    ids=str,
)
def test_image_to_image(peer, model: LatentDiffusion, photo: Image.Image, case: Case, strength: float):
    pipeline = peers.StableDiffusionImg2ImgPipeline(**peer.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    mine = ours(model, case, width=96, height=64, init_image=png(photo), strength=strength)
    assert_same(mine, theirs(pipeline, case, image=photo, strength=strength))


def test_image_to_image_of_several_pictures(peer, model: LatentDiffusion, photo: Image.Image):
    pipeline = peers.StableDiffusionImg2ImgPipeline(**peer.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    options = {"width": 96, "height": 64, "init_image": png(photo), "strength": 0.5, "num_images": 2}
    mine = ours(model, ANCESTRAL, **options)
    assert_same(mine, theirs(pipeline, ANCESTRAL, image=photo, strength=0.5, num_images_per_prompt=2))


# Another kind of noise


def test_another_parametrisation_and_noise(peer, folder: Path, tmp_path: Path):
    """v-prediction over linear betas, as the folder's scheduler says."""
    options = {"prediction_type": "v_prediction", "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    for part in ("text_encoder", "tokenizer", "unet", "vae", "model_index.json"):
        (tmp_path / part).symlink_to(folder / part)
    case = replace(DDIM, options=DDIM.options | options)
    scheduler(case).save_pretrained(tmp_path / "scheduler")
    other = marmo.load(tmp_path, device="cpu", dtype="float32")
    assert other.card.target == "v"
    mine = ours(other, case)
    assert_same(mine, theirs(peer, case))


# What we write


def from_pretrained(folder: Path, path: Path):
    write_folder(open_checkpoint(folder), path / "ours")
    return peers.StableDiffusionPipeline.from_pretrained(path / "ours", local_files_only=True)


def from_single_file(folder: Path, path: Path):
    write_single_file(open_checkpoint(folder), path / "ours.safetensors")
    return peers.StableDiffusionPipeline.from_single_file(
        str(path / "ours.safetensors"), config=str(folder), local_files_only=True
    )


@pytest.mark.parametrize("opened", [from_pretrained, from_single_file])
def test_diffusers_paints_with_what_we_write(
    peer, folder: Path, tmp_path: Path, opened: Callable[[Path, Path], object]
):
    pipeline = opened(folder, tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    for mine, before in zip(theirs(pipeline, DDIM), theirs(peer, DDIM), strict=True):
        assert np.array_equal(np.asarray(mine), np.asarray(before))


def test_a_model_of_ones_own_in_a_single_file(tmp_path: Path):
    """Heads, groups, scale, words, length and noise that no name or shape tells; diffusers takes them from a folder."""
    tokenizer = ClipTokenizer.from_merges([("a", "b</w>"), ("r", "e"), ("re", "d</w>")])
    tokenizer.save(tmp_path / "words", 16)
    text = replace(TOY["text"], vocab_size=tokenizer.vocab_size, context_length=16, num_heads=2)
    unet = replace(TOY["unet"], num_heads=(2, 4), num_groups=16)
    vae = replace(TOY["vae"], num_groups=16, latent_scale=0.4)
    noise = {"prediction_type": "v_prediction", "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    case = replace(DDIM, options=DDIM.options | noise)
    pipeline = peers.StableDiffusionPipeline(
        text_encoder=drawn(transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_config_to_json(text))), 1),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tmp_path / "words"),
        unet=drawn(peers.UNet2DConditionModel.from_config(unet_to_json(unet)), 2),
        vae=drawn(peers.AutoencoderKL.from_config(vae_to_json(vae)), 3),
        scheduler=scheduler(case),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(tmp_path / "folder")
    again = from_single_file(tmp_path / "folder", tmp_path)
    for one in (pipeline, again):
        one.set_progress_bar_config(disable=True)
    wanted = theirs(pipeline, case)
    for mine, before in zip(theirs(again, case), wanted, strict=True):
        assert np.array_equal(np.asarray(mine), np.asarray(before))
    model = marmo.load(tmp_path / "ours.safetensors", device="cpu", dtype="float32")
    assert_same(ours(model, case), wanted)
