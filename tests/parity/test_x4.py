"""The x4 upscaler against diffusers: its U-Net, whole pictures, and its size."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import marmo
from benchmarks.checkpoint import FAMILIES, random_checkpoint
from marmo.models.unet import SD_X4, UNet
from marmo.models.vae import SD_X4_VAE, VAE
from marmo.nn.blueprint import blueprint
from marmo.request import ImageRequest
from marmo.text.bpe import clip_tokenizer
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.maps.clip_config import text_config_to_json
from marmo.weights.maps.unet import config_from_json
from marmo.weights.maps.unet import config_to_json as unet_to_json
from marmo.weights.maps.vae import config_to_json as vae_to_json
from tests.parity.test_pipeline import assert_same, drawn, far_apart

peers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

TOY = FAMILIES["sd-x4"][1]["toy"]
LEVELS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
SCHEDULER = LEVELS | {"prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": True}
PROMPT = "a red fox"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_tokenizer().save(folder)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_config_to_json(TOY["text"])))
    pipeline = peers.StableDiffusionUpscalePipeline(
        text_encoder=drawn(text, 1),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder),
        unet=drawn(peers.UNet2DConditionModel.from_config(unet_to_json(TOY["unet"])), 2),
        vae=drawn(peers.AutoencoderKL.from_config(vae_to_json(TOY["vae"])), 3),
        low_res_scheduler=peers.DDPMScheduler(**LEVELS),
        scheduler=peers.DDIMScheduler(**SCHEDULER, timestep_spacing="leading", steps_offset=1),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def model(peer, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("peer") / "folder"
    peer.save_pretrained(path)
    return marmo.load(path, device="cpu", dtype="float32")


def picture(seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((24, 16), Image.Resampling.BICUBIC)


def ours(model, **options: object) -> list[Image.Image]:
    stream = BytesIO()
    picture().save(stream, "PNG")
    asked = {"prompt": PROMPT, "steps": 5, "guidance_scale": 9, "seed": 7, "sampler": "ddim", "schedule": "leading"}
    asked |= {"init_image": stream.getvalue()}
    return list(model.generate(ImageRequest(**asked | options)).images)


def theirs(peer, num_images: int = 1, **options: object) -> list[Image.Image]:
    generators = [torch.Generator().manual_seed(7 + index) for index in range(num_images)]
    asked = {"prompt": [PROMPT] * num_images, "image": [picture()] * num_images, "num_inference_steps": 5}
    return peer(**asked | {"guidance_scale": 9.0, "generator": generators} | options).images


@pytest.mark.parametrize(("scale", "level"), [(9, 20), (1, 20), (9, 200)])
def test_pictures(peer, model, scale: float, level: int):
    mine = ours(model, guidance_scale=scale, told={"noise_level": level})
    assert_same(mine, theirs(peer, guidance_scale=float(scale), noise_level=level))
    assert mine[0].size == (96, 64)


def test_what_it_is_told_acts(model):
    plain = ours(model)
    assert far_apart(plain, ours(model, told={"noise_level": 100}))
    assert far_apart(plain, ours(model, prompt="a grey wolf"))
    assert far_apart(plain, ours(model, negative_prompt="blurry"))


def test_a_batch(peer, model):
    assert_same(ours(model, num_images=2), theirs(peer, 2))


def test_full_size_is_the_released_one():
    """The config.json of stabilityai/stable-diffusion-x4-upscaler, and its two networks' parameters."""
    said = {
        "attention_head_dim": 8,
        "block_out_channels": [256, 512, 512, 1024],
        "cross_attention_dim": 1024,
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
        "in_channels": 7,
        "num_class_embeds": 1000,
        "only_cross_attention": [True, True, True, False],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
        "use_linear_projection": True,
    }
    assert config_from_json(said) == SD_X4
    with blueprint():
        count = sum(weight.numel() for weight in UNet(SD_X4).parameters())
        vae = sum(weight.numel() for weight in VAE(SD_X4_VAE).parameters())
    with torch.device("meta"):
        other = peers.UNet2DConditionModel.from_config(said)
        other_vae = peers.AutoencoderKL.from_config(vae_to_json(SD_X4_VAE))
    assert count == sum(weight.numel() for weight in other.parameters()) == 473_398_020
    assert vae == sum(weight.numel() for weight in other_vae.parameters()) == 55_325_927


@pytest.mark.long
def test_files_of_both_layouts_are_the_same_model(tmp_path: Path):
    single = random_checkpoint(tmp_path / "x4.safetensors", family="sd-x4")
    first = open_checkpoint(single)
    write_folder(first, tmp_path / "folder")
    folder = open_checkpoint(tmp_path / "folder")
    assert folder.kind == first.kind and first.kind is not None and first.kind.name == "sd-x4"
    assert folder.parts["unet"].config == first.parts["unet"].config == TOY["unet"]
    write_single_file(folder, tmp_path / "again.safetensors")
    pipeline = peers.StableDiffusionUpscalePipeline.from_pretrained(tmp_path / "folder")
    assert pipeline.low_res_scheduler.config.beta_end == 0.02
    pictures = [
        ours(marmo.load(path, device="cpu", dtype="float32"))[0]
        for path in (single, tmp_path / "folder", tmp_path / "again.safetensors")
    ]
    assert pictures[0] == pictures[1] == pictures[2]


def test_what_it_cannot_do_is_refused(model):
    with pytest.raises(ValueError, match="makes a picture larger; give it one as init_image"):
        model.generate(ImageRequest(prompt=PROMPT))
    with pytest.raises(ValueError, match="leave strength, mask and outpaint out"):
        ours(model, strength=0.5)
