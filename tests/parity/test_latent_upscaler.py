"""The latent x2 upscaler against diffusers: its U-Net, whole pictures, and its size."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import marmo
from benchmarks.checkpoint import FAMILIES
from marmo.cards import latent_card
from marmo.diffusion.sources import NOISE_SOURCES
from marmo.models.latent_upscaler import SD_X2, SD_X2_TOY, LatentUpscaler, LatentUpscalerConfig
from marmo.nn.blueprint import blueprint
from marmo.pipelines.doubler import Doubler
from marmo.pipelines.painter import Ask
from marmo.pipelines.pixels import to_pictures
from marmo.request import ImageRequest
from marmo.text.bpe import clip_tokenizer
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder
from marmo.weights.folders import open_part
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.kinds import SD_X2 as KIND
from marmo.weights.maps.clip_config import text_config_to_json
from marmo.weights.maps.latent_upscaler import config_from_json, config_to_json, diffusers
from marmo.weights.maps.vae import config_to_json as vae_to_json
from marmo.weights.store import from_state
from tests.parity.test_pipeline import assert_same, drawn, far_apart
from tests.parity.test_unet import assert_close

peers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

TOY = FAMILIES["sd-x2"][1]["toy"]
PROMPT = "a red fox"
CONFIGS = {
    "toy": SD_X2_TOY,
    "more blocks": LatentUpscalerConfig(
        in_channels=6, out_channels=4, channels=(32, 32, 64, 64), attends=(False, False, True, True),
        context_width=24, vector_width=40, head_width=32, num_res_blocks=3,
    ),
    "two levels, both attending": LatentUpscalerConfig(
        in_channels=8, out_channels=5, channels=(64, 128, 128), attends=(True, True, True),
        context_width=32, vector_width=160, head_width=32, num_res_blocks=2,
    ),
}  # fmt: skip
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def peer_of(config: LatentUpscalerConfig) -> nn.Module:
    return drawn(peers.UNet2DConditionModel.from_config(config_to_json(config)), 2)


def filled(config: LatentUpscalerConfig, folder: Path) -> LatentUpscaler:
    with blueprint():
        network = LatentUpscaler(config)
    tensors = to_ours(diffusers(config), open_part(folder), shapes(network), "the U-Net")
    fill(network, tensors, torch.float32, torch.device("cpu"))
    return network


def inputs(config: LatentUpscalerConfig, batch: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, the clock, the tokens of a prompt, and the vector."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, config.in_channels, height, width, generator=draw)
    tokens = torch.randn(batch, 7, config.context_width, generator=draw)
    return x, torch.tensor([0.67, -0.8])[:batch], tokens, torch.randn(batch, config.vector_width, generator=draw)


@every_config
@torch.no_grad()
def test_the_networks_are_equal(config: LatentUpscalerConfig, tmp_path: Path):
    peer = peer_of(config)
    peer.save_pretrained(tmp_path)
    assert config_from_json(json.loads((tmp_path / "config.json").read_text())) == config
    network = filled(config, tmp_path)
    for size in ((1, 16, 16), (2, 32, 16)):
        x, t, tokens, vector = inputs(config, *size)
        theirs = peer(x, t, tokens, timestep_cond=vector).sample
        assert_close(network(x, t, network.project(tokens), vector), theirs)


@every_config
def test_what_we_write_is_theirs(config: LatentUpscalerConfig):
    peer = peer_of(config)
    ours = to_ours(diffusers(config), from_state(peer.state_dict()), shapes(LatentUpscaler(config)), "the U-Net")
    written = to_theirs(diffusers(config), ours)
    assert {name: info.shape for name, info in written.infos.items()} == shapes(peer)
    assert all(torch.equal(written.read(name), tensor) for name, tensor in peer.state_dict().items())


def test_full_size_is_the_released_one():
    """The unet/config.json of stabilityai/sd-x2-latent-upscaler; its file of 745 MB holds 2 bytes of each number."""
    said = {
        "act_fn": "gelu",
        "attention_head_dim": 64,
        "block_out_channels": [384, 384, 768, 768],
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
        "cross_attention_dim": 768,
        "down_block_types": ["KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3],
        "in_channels": 8,
        "layers_per_block": 4,
        "mid_block_type": None,
        "norm_num_groups": None,
        "out_channels": 5,
        "resnet_time_scale_shift": "scale_shift",
        "time_cond_proj_dim": 896,
        "time_embedding_type": "fourier",
        "timestep_post_act": "gelu",
        "up_block_types": [*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"],
    }
    assert config_from_json(said) == SD_X2
    with blueprint():
        count = sum(weight.numel() for weight in LatentUpscaler(SD_X2).parameters())
    with torch.device("meta"):
        peer = peers.UNet2DConditionModel.from_config(said)
    assert count == sum(weight.numel() for weight in peer.parameters()) == 372_560_645


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_tokenizer().save(folder)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_config_to_json(TOY["text"])))
    pipeline = peers.StableDiffusionLatentUpscalePipeline(
        text_encoder=drawn(text, 1),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder),
        unet=peer_of(TOY["unet"]),
        vae=drawn(peers.AutoencoderKL.from_config(vae_to_json(TOY["vae"])), 3),
        scheduler=peers.EulerDiscreteScheduler.from_config(dict(KIND.scheduler)),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peer") / "folder"
    peer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path):
    return marmo.load(folder, device="cpu", dtype="float32")


def picture(size: tuple[int, int] = (96, 64)) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def asked(small: Image.Image, **options: object) -> ImageRequest:
    stream = BytesIO()
    small.save(stream, "PNG")
    fields = {"prompt": PROMPT, "steps": 5, "seed": 7, "start": "a1111", "init_image": stream.getvalue()}
    return ImageRequest(**fields | options)


def theirs(pipeline, num_images: int = 1, steps: int = 5, **options: object) -> list[Image.Image]:
    generators = [torch.Generator().manual_seed(7 + index) for index in range(num_images)]
    fields = {"prompt": [PROMPT] * num_images, "image": [picture()] * num_images, "guidance_scale": 1.0}
    return pipeline(**fields | {"num_inference_steps": steps, "generator": generators} | options).images


def before_the_last_step(model, request: ImageRequest) -> list[Image.Image]:
    """What the last question shows: where diffusers' schedule for this model ends, at the least noise above 0."""
    asks: list[Ask] = []
    for event in model.walk(request):
        if isinstance(event, Ask):
            event.answer()
            asks.append(event)
        elif hasattr(event, "answer"):
            event.answer()
    pixels, _ = model.decode(asks[-1].questions[0].x)
    return to_pictures(pixels)


@pytest.mark.parametrize("scale", [1, 4])
def test_pictures_of_the_released_scheduler(peer, model, scale: float):
    """Its 5 steps are our first 5 of 6; ours goes on to 0."""
    mine = before_the_last_step(model, asked(picture(), steps=6, guidance_scale=scale))
    assert_same(mine, theirs(peer, guidance_scale=float(scale)))
    assert mine[0].size == (192, 128)


@pytest.mark.parametrize("options", [{"guidance_scale": 4}, {"guidance_scale": 1, "num_images": 2}, {"prompt": ""}])
def test_whole_pictures(peer, model, options: dict[str, object]):
    """With levels that end in 0: those of even times."""
    levels = {"interpolation_type": "linear", "timestep_spacing": "leading", "steps_offset": 1}
    ending = peers.EulerDiscreteScheduler.from_config({**KIND.scheduler, **levels})
    pipeline = peers.StableDiffusionLatentUpscalePipeline(**{**peer.components, "scheduler": ending})
    pipeline.set_progress_bar_config(disable=True)
    mine = model.generate(asked(picture(), schedule="leading", start="diffusers", **options)).images
    count = options.get("num_images", 1)
    said = {
        "prompt": [options.get("prompt", PROMPT)] * count,
        "guidance_scale": float(options.get("guidance_scale", 1)),
    }
    assert_same(list(mine), theirs(pipeline, count, **said))


def test_what_it_is_told_acts(model):
    plain = list(model.generate(asked(picture())).images)
    assert far_apart(plain, list(model.generate(asked(picture(), prompt="a grey wolf")).images))
    other = asked(picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert far_apart(plain, list(model.generate(other).images))


@torch.no_grad()
def test_latents_between_two_passes(peer, folder: Path):
    """As diffusers' pipeline takes the latents of another: its 19 steps are our first 19 of 20."""
    doubler = Doubler(latent_card(open_checkpoint(folder)), torch.device("cpu"), torch.float32)
    doubler.load()
    latents = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(3))
    source = NOISE_SOURCES["torch-cpu"]([5, 6])
    request = ImageRequest(prompt=PROMPT, negative_prompt="", seed=5, num_images=2)
    asks: list[Ask] = []
    for ask in doubler.double(latents, request, source):
        ask.answer()
        asks.append(ask)
    noise = NOISE_SOURCES["torch-cpu"]([5, 6]).normal((4, 32, 16))
    options = {"image": latents, "latents": noise, "num_inference_steps": 19, "guidance_scale": 1.0}
    wanted = peer([PROMPT] * 2, **options, output_type="latent").images
    assert len(asks) == 20
    assert_close(asks[-1].questions[0].x, wanted)


def test_folders_both_ways(folder: Path, model, tmp_path: Path):
    first = open_checkpoint(folder)
    assert first.kind is KIND and first.parts["unet"].config == SD_X2_TOY
    write_folder(first, tmp_path / "again")
    again = peers.StableDiffusionLatentUpscalePipeline.from_pretrained(tmp_path / "again")
    assert again.scheduler.config.interpolation_type == "log_linear"
    mine = marmo.load(tmp_path / "again", device="cpu", dtype="float32")
    assert mine.generate(asked(picture())).images[0] == model.generate(asked(picture())).images[0]
