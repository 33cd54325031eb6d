"""Stable Diffusion 2, SDXL and its refiner against diffusers' pipelines: the same weights on disk, the same pixels.

As in `test_pipeline.py`, every weight is drawn from a normal, at a scale that keeps the variance.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import marmo
from benchmarks.checkpoint import FAMILIES, FamilyName
from marmo.models.clip_text import ClipTextConfig
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import Refiner, Told
from marmo.text.bpe import clip_tokenizer
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.maps.clip_config import text_config_to_json
from marmo.weights.maps.unet import config_to_json as unet_to_json
from marmo.weights.maps.vae import config_to_json as vae_to_json
from marmo.weights.store import open_file
from tests.parity.test_pipeline import CASES, LEADING, NEGATIVE, PROMPT, Case, assert_same, drawn, far_apart, peers, png
from tests.parity.test_pipeline import ours as painted
from tests.parity.test_pipeline import theirs as peer_painted

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

DDIM, EULER = CASES[0], CASES[2]
V = {"prediction_type": "v_prediction"}
ZERO_SNR = V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def text_model(config: ClipTextConfig, seed: int):
    kind = transformers.CLIPTextModelWithProjection if config.embed_width else transformers.CLIPTextModel
    return drawn(kind(transformers.CLIPTextConfig(**text_config_to_json(config))), seed)


def tokenizer(folder: Path, pad: int | None = None):
    own = clip_tokenizer() if pad is None else replace(clip_tokenizer(), pad=pad)
    own.save(folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def saved(pipeline, folder: Path, case: Case) -> Path:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = case.peer(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **case.options}
    )
    pipeline.save_pretrained(folder)
    return folder


def networks(family: FamilyName) -> dict[str, object]:
    """A U-Net and an autoencoder of diffusers'."""
    configs = FAMILIES[family][1]["toy"]
    unet = peers.UNet2DConditionModel.from_config(unet_to_json(configs["unet"]))
    return {
        "unet": drawn(unet, 2),
        "vae": drawn(peers.AutoencoderKL.from_config(vae_to_json(configs["vae"])), 3),
        "scheduler": peers.DDIMScheduler(),
    }


def loaded(folder: Path, **options: object) -> LatentDiffusion:
    return marmo.load(folder, device="cpu", dtype="float32", **options)


# Stable Diffusion 2


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory):
    kind, sizes = FAMILIES["sd2"]
    return peers.StableDiffusionPipeline(
        text_encoder=text_model(kind.for_folder(sizes["toy"]["text"]), 1),
        tokenizer=tokenizer(tmp_path_factory.mktemp("tokenizer"), pad=0),
        **networks("sd2"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize("options", [{}, V, ZERO_SNR], ids=["eps", "v", "zero terminal SNR"])
def test_stable_diffusion_2(sd2, tmp_path: Path, options: dict[str, object]):
    """Euler's method, since diffusers' DDIM takes the noisiest level of a zero terminal SNR to be infinite."""
    schedule = "trailing" if options is ZERO_SNR else "leading"
    case = replace(EULER, options=LEADING | options, schedule=schedule)
    model = loaded(saved(sd2, tmp_path / "peer", case))
    assert (model.card.defaults.prediction, model.card.betas.zero_snr) == (
        "v" if options else "eps",
        options is ZERO_SNR,
    )
    mine = painted(model, case, negative_prompt=NEGATIVE)
    assert_same(mine, peer_painted(sd2, case, negative_prompt=NEGATIVE))
    assert model.card.defaults.clip_skip == 2  # counted in the whole tower, of which the folder lacks the last layer


def test_stable_diffusion_2_starts_from_pure_noise_with_the_solver_of_our_defaults(sd2, tmp_path: Path):
    """Sigma 4096, from which a solver in raw sigma could take no second-order step."""
    options = {**ZERO_SNR, "algorithm_type": "dpmsolver++"}
    case = Case("dpmpp_2m", "trailing", peers.DPMSolverMultistepScheduler, options)
    model = loaded(saved(sd2, tmp_path / "peer", case))
    assert_same(painted(model, case), peer_painted(sd2, case))


@pytest.mark.parametrize("options", [{}, V, ZERO_SNR], ids=["eps", "v", "zero terminal SNR"])
def test_stable_diffusion_2_as_a_single_file(sd2, tmp_path: Path, options: dict[str, object]):
    """Written, read by us and by diffusers; the last layer and the projection, which no folder has, are filled in."""
    schedule = "trailing" if options is ZERO_SNR else "leading"
    case = replace(EULER, options=LEADING | options, schedule=schedule)
    folder, path = saved(sd2, tmp_path / "peer", case), tmp_path / "single.safetensors"
    write_single_file(open_checkpoint(folder), path)
    filled = open_file(path).metadata["marmo.filler"].split()
    assert len(filled) == 13 and all(name in open_file(path).infos for name in filled)
    theirs = peer_painted(sd2, case)
    assert_same(painted(loaded(path), case), theirs)
    opened = peers.StableDiffusionPipeline.from_single_file(str(path), config=str(folder), local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    assert_same(peer_painted(opened, case), theirs)


# SDXL


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory):
    sizes = FAMILIES["sdxl"][1]["toy"]
    return peers.StableDiffusionXLPipeline(
        text_encoder=text_model(sizes["text"], 1),
        text_encoder_2=text_model(sizes["text2"], 4),
        tokenizer=tokenizer(tmp_path_factory.mktemp("tokenizer")),
        tokenizer_2=tokenizer(tmp_path_factory.mktemp("tokenizer"), pad=0),
        **networks("sdxl"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory):
    sizes = FAMILIES["sdxl-refiner"][1]["toy"]
    return peers.StableDiffusionXLImg2ImgPipeline(
        text_encoder=None,
        text_encoder_2=text_model(sizes["text2"], 4),
        tokenizer=None,
        tokenizer_2=tokenizer(tmp_path_factory.mktemp("tokenizer"), pad=0),
        **networks("sdxl-refiner"),
        force_zeros_for_empty_prompt=False,
        requires_aesthetics_score=True,
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def sdxl_folder(sdxl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(sdxl, tmp_path_factory.mktemp("sdxl") / "base", EULER)


@pytest.fixture(scope="module")
def refiner_folder(refiner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(refiner, tmp_path_factory.mktemp("sdxl") / "refiner", EULER)


@pytest.fixture(scope="module")
def both(sdxl_folder: Path, refiner_folder: Path) -> LatentDiffusion:
    return loaded(sdxl_folder, refiner=refiner_folder)


def test_sdxl(sdxl, both: LatentDiffusion):
    mine = painted(both, EULER, negative_prompt=NEGATIVE)
    assert_same(mine, peer_painted(sdxl, EULER, negative_prompt=NEGATIVE))
    assert far_apart(mine, painted(both, EULER, negative_prompt=NEGATIVE, prompt="a grey wolf"))


def test_sdxl_without_a_negative_prompt_hears_zeros(sdxl, both: LatentDiffusion):
    mine, encoded = painted(both, EULER), painted(both, EULER, empty_negative="encoded")
    assert_same(mine, peer_painted(sdxl, EULER))
    assert_same(encoded, peer_painted(sdxl, EULER, negative_prompt=""))
    assert far_apart(mine, encoded)


def test_sdxl_is_told_sizes(sdxl, both: LatentDiffusion):
    told = Told(original_width=300, original_height=200, crop_left=7, crop_top=5, target_width=500, target_height=400)
    sizes = {"original_size": (200, 300), "crops_coords_top_left": (5, 7), "target_size": (400, 500)}
    mine = painted(both, EULER, told=told)
    assert_same(mine, peer_painted(sdxl, EULER, **sizes))
    assert far_apart(mine, painted(both, EULER))


def test_clip_skip_counts_from_the_end_of_both_towers(sdxl, both: LatentDiffusion):
    """1 is the last; diffusers counts from the layer of the training, so its pipeline is given states."""

    def read(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = ((sdxl.tokenizer, sdxl.text_encoder), (sdxl.tokenizer_2, sdxl.text_encoder_2))
        outputs = [
            encoder(
                tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids,
                output_hidden_states=True,
            )
            for tokenizer, encoder in pairs
        ]
        return torch.cat([output.hidden_states[-1] for output in outputs], dim=-1), outputs[1].text_embeds

    (cond, pooled), (uncond, negative_pooled) = read(PROMPT), read(NEGATIVE)
    given = {"prompt": None, "prompt_embeds": cond, "pooled_prompt_embeds": pooled}
    given |= {"negative_prompt_embeds": uncond, "negative_pooled_prompt_embeds": negative_pooled}
    mine = painted(both, EULER, negative_prompt=NEGATIVE, clip_skip=1)
    assert_same(mine, peer_painted(sdxl, EULER, **given))
    assert far_apart(mine, painted(both, EULER, negative_prompt=NEGATIVE))
    with pytest.raises(ValueError, match="clip skip 3 asks for a layer"):  # of which the first tower has 2
        painted(both, EULER, clip_skip=3)


@pytest.mark.parametrize("strength", [0.34, 0.75])
def test_the_refiner_paints_over_a_picture(refiner, refiner_folder: Path, strength: float):
    photo = gradient()
    model = loaded(refiner_folder)
    mine = painted(
        model, EULER, width=96, height=64, init_image=png(photo), strength=strength, negative_prompt=NEGATIVE
    )
    options = {"image": photo, "strength": strength, "negative_prompt": NEGATIVE}
    # A picture's own size is what diffusers tells its refiner too.
    assert_same(mine, peer_painted(refiner, EULER, **options))
    scored = painted(
        model, EULER, width=96, height=64, init_image=png(photo), strength=strength, negative_prompt=NEGATIVE,
        told=Told(score=9, negative_score=1),
    )  # fmt: skip
    assert_same(scored, peer_painted(refiner, EULER, **options, aesthetic_score=9, negative_aesthetic_score=1))


def gradient() -> Image.Image:
    y, x = np.mgrid[:64, :96] / 64
    return Image.fromarray((np.stack([x / 1.5, y, (x + y) % 1], axis=-1) * 255).astype(np.uint8))


@pytest.mark.parametrize("switch", [0.5, 0.8])
@pytest.mark.parametrize("case", [EULER, DDIM], ids=str)
def test_an_ensemble_of_experts(sdxl, refiner, both: LatentDiffusion, refiner_folder: Path, case: Case, switch: float):
    """diffusers: the base stops at a share of the clock and hands its latents to the refiner."""
    wanted = Refiner(model=refiner_folder.name, switch=switch)
    mine = painted(both, case, refiner=wanted, negative_prompt=NEGATIVE, steps=10)
    shared = {"negative_prompt": NEGATIVE, "num_inference_steps": 10}
    latents = peer_painted(sdxl, case, **shared, denoising_end=switch, output_type="latent")
    assert_same(mine, peer_painted(refiner, case, **shared, image=latents, denoising_start=switch))
    assert far_apart(mine, painted(both, case, negative_prompt=NEGATIVE, steps=10))


@pytest.mark.parametrize("options", [V, ZERO_SNR], ids=["v", "zero terminal SNR"])
def test_sdxl_that_predicts_v_is_marked_in_a_single_file(sdxl, tmp_path: Path, options: dict[str, object]):
    schedule = "trailing" if options is ZERO_SNR else "leading"
    case = replace(EULER, options=LEADING | options, schedule=schedule)
    folder, path = saved(sdxl, tmp_path / "peer", case), tmp_path / "single.safetensors"
    write_single_file(open_checkpoint(folder), path)
    names = {"v_pred", "ztsnr"} if options is ZERO_SNR else {"v_pred"}
    assert names == {"v_pred", "ztsnr"} & open_file(path).infos.keys()
    model = loaded(path)
    assert (model.card.target, model.card.betas.zero_snr) == ("v", options is ZERO_SNR)
    assert_same(painted(model, case), peer_painted(sdxl, case))


# What we write


def from_pretrained(folder: Path, path: Path, pipeline: type):
    write_folder(open_checkpoint(folder), path / "ours")
    return pipeline.from_pretrained(path / "ours", local_files_only=True, add_watermarker=False)


def from_single_file(folder: Path, path: Path, pipeline: type):
    file = path / "ours.safetensors"
    write_single_file(open_checkpoint(folder), file)
    return pipeline.from_single_file(str(file), config=str(folder), local_files_only=True, add_watermarker=False)


@pytest.mark.parametrize("opened", [from_pretrained, from_single_file])
def test_diffusers_paints_sdxl_with_what_we_write(
    sdxl, sdxl_folder: Path, tmp_path: Path, opened: Callable[..., object]
):
    pipeline = opened(sdxl_folder, tmp_path, peers.StableDiffusionXLPipeline)
    pipeline.set_progress_bar_config(disable=True)
    assert_same(peer_painted(pipeline, EULER), peer_painted(sdxl, EULER))


@pytest.mark.parametrize("opened", [from_pretrained, from_single_file])
def test_diffusers_paints_with_the_refiner_that_we_write(
    refiner, refiner_folder: Path, tmp_path: Path, opened: Callable[..., object]
):
    pipeline = opened(refiner_folder, tmp_path, peers.StableDiffusionXLImg2ImgPipeline)
    pipeline.set_progress_bar_config(disable=True)
    options = {"image": gradient(), "strength": 0.75, "negative_prompt": NEGATIVE}
    assert_same(peer_painted(pipeline, EULER, **options), peer_painted(refiner, EULER, **options))
