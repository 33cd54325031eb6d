"""Painting pixels: requests, records, replays, and what means nothing to a model without words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marmo.catalog import load, models, open_for
from marmo.cli.main import main
from marmo.diffusion.noise import DDPM
from marmo.files.pictures import read_record
from marmo.models.pixel_unet import PIXEL_TOY, PixelUNet
from marmo.pipelines.events import Step
from marmo.pipelines.pixel_diffusion import PixelDiffusion
from marmo.request import ImageRequest
from marmo.serve.stock import Stock, Unusable
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.export import write_folder
from marmo.weights.forms import written
from marmo.weights.maps.scheduler import bound_from_json, ddpm_to_json
from marmo.weights.store import from_state

CONFIG = replace(PIXEL_TOY, in_channels=1, out_channels=1, side=16)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models") / "toy"
    part = Part(written("pixel_unet", "diffusers"), CONFIG, from_state(PixelUNet(CONFIG).state_dict()))
    scheduler = ddpm_to_json(replace(DDPM, num_levels=40))
    write_folder(Checkpoint(place, "folder", {"pixel_unet": part}, (place,), scheduler=scheduler), place)
    return place


@pytest.fixture
def model(path: Path) -> PixelDiffusion:
    found = open_for(ImageRequest(model=str(path)), "cpu", "float32")
    assert isinstance(found, PixelDiffusion)
    return found


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=int)


def test_by_default_it_goes_through_all_levels(model: PixelDiffusion) -> None:
    events = list(model.stream(ImageRequest(seed=3)))
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) == 40 == steps[0].total and steps[0].preview()[0].size == (16, 16)
    assert max(float(step.x0.abs().max()) for step in steps) <= 1, "x0 is clipped, as in the paper's program"
    resolved = model.resolve(ImageRequest(seed=3))
    assert (resolved.sampler, resolved.eta, resolved.width) == ("ddpm", 1.0, 16)


def test_a_batch_is_its_pictures(model: PixelDiffusion) -> None:
    together = model.generate(ImageRequest(seed=3, num_images=2, width=24, height=16)).images
    alone = model.generate(ImageRequest(seed=4, width=24, height=16)).images
    assert together[0].size == (24, 16) and np.abs(pixels(together[1]) - pixels(alone[0])).max() <= 1


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_sde", "unipc", "lcm", "euler_cfg_pp", "tcd"])
def test_every_kind_of_sampler_paints(model: PixelDiffusion, sampler: str) -> None:
    request = ImageRequest.model_validate({"seed": 1, "steps": 4, "sampler": sampler})
    assert pixels(model.generate(request).images[0]).std() > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", "a fox"), ("negative_prompt", "dark"), ("guidance_scale", 3.0), ("clip_skip", 2), ("tiling", "x")],
)
def test_words_mean_nothing(model: PixelDiffusion, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} means nothing to this model"):
        model.generate(ImageRequest.model_validate({field: value}))


def test_wrong_requests_are_one_sentence(model: PixelDiffusion, path: Path) -> None:
    with pytest.raises(ValueError, match="width 17 is not a multiple of 2"):
        model.generate(ImageRequest(width=17))
    with pytest.raises(ValueError, match="this is toy"):
        model.generate(ImageRequest(model="other"))
    with pytest.raises(ValueError, match="paints pixels without words"):
        load(path, device="cpu")


def test_a_server_says_why_it_offers_none(path: Path) -> None:
    (offer,) = Stock({"digits": path}, "cpu", "float32").offers()
    assert isinstance(offer, Unusable)
    assert str(offer).startswith("digits paints pixels without words") and "open_for" in str(offer)


def test_damaged_weights_are_told(model: PixelDiffusion) -> None:
    model.load()
    model.network.conv_out.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="gives no numbers in float32"):
        model.generate(ImageRequest(seed=1, steps=2))


def test_the_command_line_paints_and_replays(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--model", str(path), "--seed", "7", "--steps", "8", "--output", str(tmp_path), "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as end:
        main(["generate", *out])  # without words, or with none: "" is the same
    told = capsys.readouterr().out
    assert end.value.code == 0
    (picture,) = (Path(row["file"]) for row in json.loads(told)["pictures"])
    record = read_record(picture)
    assert record is not None and record.model == "toy" and len(record.sigmas) == 9
    with pytest.raises(SystemExit) as end:
        main(["replay", str(picture), "--model", str(path)])
    assert end.value.code == 0, capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["generate", "a fox", *out])
    assert end.value.code == 2 and "prompt means nothing to this model" in capsys.readouterr().err


def test_it_is_listed_and_inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = (one for one in models([path.parent]) if one.name == "toy")
    assert (found.kind, found.use) == ("pixel diffusion", "pixels")
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(path)])
    assert end.value.code == 0 and "pixel_unet" in capsys.readouterr().out


def test_what_a_scheduler_says_of_clipping() -> None:
    assert bound_from_json({}) == 1.0 and bound_from_json({"clip_sample": False}) is None
    assert bound_from_json({"clip_sample_range": 3}) == 3.0
    for wrong in (0, -1.0, "1", 1e9):
        with pytest.raises(ValueError, match="clip_sample_range"):
            bound_from_json({"clip_sample_range": wrong})
