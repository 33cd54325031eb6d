"""The latent x2 upscaler, by itself and between two passes."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import marmo
from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.cli.main import main
from marmo.files.pictures import read_record
from marmo.models.latent_upscaler import SD_X2_TOY, LatentUpscaler
from marmo.nn.engine import Wrap, wrapped
from marmo.pipelines.doubler import Doubler
from marmo.pipelines.events import Stage, Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("x2") / "x2"
    return random_checkpoint(path, family="sd-x2", dtype=torch.float32)


@pytest.fixture(scope="module")
def larger(folder: Path) -> LatentDiffusion:
    return marmo.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def both(stand_in: Path, folder: Path) -> LatentDiffusion:
    return marmo.load(stand_in, device="cpu", dtype="float32", upscaler=folder)


def picture(width: int, height: int) -> bytes:
    stream = BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def request(hires: dict[str, object], **options: object) -> ImageRequest:
    fields = {"prompt": "a fox", "width": 32, "height": 48, "steps": 2, "seed": 7}
    return ImageRequest.model_validate(fields | {"hires": hires} | options)


@pytest.mark.long
@pytest.mark.parametrize(("size", "wanted"), [((32, 64), (64, 128)), ((41, 60), (80, 112)), ((8, 8), (16, 16))])
def test_any_picture_becomes_twice_as_large(larger: LatentDiffusion, size: tuple[int, int], wanted: tuple[int, int]):
    """Cut to whole latents; sizes whose halves are odd, or a single latent, are no exception."""
    result = larger.generate(ImageRequest(prompt="a fox", init_image=picture(*size), steps=2, seed=7))
    assert result.images[0].size == wanted
    assert result.records[0].request.guidance_scale == 1 and result.records[0].request.prediction is None


def test_what_it_cannot_do_is_refused(larger: LatentDiffusion):
    small = picture(32, 32)
    for fields, words in (
        ({}, "makes a picture larger; give it one as init_image"),
        ({"init_image": small, "strength": 0.5}, "leave strength, mask and outpaint out"),
        ({"init_image": small, "told": {"noise_level": 50}}, "told.noise_level means nothing to"),
        ({"init_image": small, "prediction": "v"}, "prediction"),
        ({"init_image": small, "width": 72, "height": 64}, "not a multiple of 16"),
        ({"init_image": small, "hires": {"scale": 2}}, "enlarge the result afterwards"),
    ):
        with pytest.raises(ValueError, match=words):
            larger.generate(ImageRequest.model_validate({"prompt": "a fox"} | fields))


@pytest.mark.long
def test_the_second_pass_begins_with_its_latents(both: LatentDiffusion, folder: Path):
    plain = request({"scale": 2, "model": str(folder), "strength": 0})
    events = list(both.stream(plain))
    result = events[-1]
    assert [event.name for event in events if isinstance(event, Stage)] == ["encoding", "upscaling", "decoding"]
    assert result.images[0].size == (64, 96)
    (record,) = result.records
    assert record.request.hires.model == "x2" and record.request.hires.upscaler == "model"
    assert any(name.startswith("upscaler/unet") for name in record.weights)
    again = both.generate(request({"scale": 2, "model": str(folder), "strength": 0.6}))
    rule = both.generate(request({"scale": 2, "upscaler": "latent-bilinear", "strength": 0}))
    assert again.images[0].size == (64, 96)
    assert len({picture.tobytes() for picture in (result.images[0], again.images[0], rule.images[0])}) == 3


@pytest.mark.long
def test_other_sizes_and_batches(both: LatentDiffusion, folder: Path):
    odd = both.generate(request({"scale": 2.5, "model": str(folder), "strength": 0.5}, num_images=2))
    assert [picture.size for picture in odd.images] == [(80, 120)] * 2
    alone = both.generate(request({"scale": 2.5, "model": str(folder), "strength": 0.5}, seed=8))
    apart = torch.tensor(list(odd.images[1].tobytes())) - torch.tensor(list(alone.images[0].tobytes()))
    assert apart.abs().max() <= 2


@pytest.mark.long
def test_what_the_picture_shows_acts_on_the_doubling(both: LatentDiffusion, folder: Path):
    hires = {"scale": 2, "model": str(folder), "strength": 0}
    plain, other = (both.generate(request(hires | said)).images[0] for said in ({}, {"prompt": "a grey wolf"}))
    assert plain != other


def test_latents_must_be_the_same(folder: Path, tmp_path: Path):
    other = random_checkpoint(tmp_path / "xl.safetensors", family="sdxl")
    with pytest.raises(ValueError, match=r"cannot enlarge what xl\.safetensors paints: their latents are not the same"):
        catalog.open_model(other, "cpu", "float32", upscaler=folder)


def test_a_model_that_paints_is_no_upscaler(stand_in: Path):
    with pytest.raises(ValueError, match="is no upscaler for a second pass"):
        catalog.open_model(stand_in, "cpu", "float32", upscaler=stand_in)


@pytest.mark.long
def test_in_little_memory(stand_in: Path, folder: Path, both: LatentDiffusion):
    """Its networks share the room: none is in memory while another works, and the picture stays the same."""
    wanted = request({"scale": 2, "model": str(folder), "strength": 0.5})
    frugal = catalog.open_model(stand_in, "cpu", "float32", upscaler=folder, memory="low")
    assert isinstance(frugal.upscaler, Doubler)
    seen = [
        [network for network in (frugal.unet, frugal.upscaler.unet) if next(network.parameters()).device.type != "meta"]
        for event in frugal.stream(wanted)
        if isinstance(event, Step)
    ]
    assert all(len(networks) == 1 for networks in seen)
    apart = torch.tensor(list(frugal.generate(wanted).images[0].tobytes())).sub(
        torch.tensor(list(both.generate(wanted).images[0].tobytes()))
    )
    assert apart.abs().max() <= 1


@pytest.mark.long
def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "small.png").write_bytes(picture(32, 32))
    flags = ["--model", str(folder), "--prompt", "a fox", "--steps", "2", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="0"):
        main(["upscale", str(tmp_path / "small.png"), *flags])
    (made,) = (tmp_path / "out").glob("*.png")
    assert Image.open(made).size == (64, 64)
    assert read_record(made).request.sampler == "euler"
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["replay", str(made), "--init-image", str(tmp_path / "small.png"), "--memory", "low"])
    assert "identical" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(folder)])
    assert "Stable Diffusion's latent x2 upscaler that predicts edm" in capsys.readouterr().out


@torch.no_grad()
def test_edges_that_meet():
    """Latents that are rolled give a result that is rolled, by whole cells of the coarsest level."""
    network = LatentUpscaler(SD_X2_TOY).eval()
    draw = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    x, tokens = torch.randn(1, 8, 16, 24, generator=draw), torch.randn(1, 7, 64, generator=draw)
    vector, t = torch.randn(1, SD_X2_TOY.vector_width, generator=draw), torch.tensor([0.3])
    context = network.project(tokens)
    with wrapped(network, Wrap(True, True)):
        y, rolled = network(x, t, context, vector), network(x.roll((8, 16), (2, 3)), t, context, vector)
    assert (rolled - y.roll((8, 16), (2, 3))).abs().max() <= 1e-5 * y.abs().max()
    plain = network(x, t, context, vector)
    assert (plain - y).abs().max() > 1e-3 * y.abs().max()
