"""Upscalers: pictures of any size, tile by tile, with record and replay."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marmo import catalog
from marmo.cli.main import main
from marmo.files.infotext import infotext
from marmo.models.rrdb import RRDBConfig
from marmo.models.srvgg import SRVGGConfig
from marmo.nn.engine import Wrap
from marmo.pipelines import upscaler
from marmo.pipelines.events import Result, Stage
from marmo.pipelines.upscaler import Enlarge, Upscaler
from marmo.request import ImageRequest
from marmo.request_parts import Upscale
from tests.upscalers import COMPACT, X2, X4, upscaler_file

FLAT = Wrap()


def opened(path: Path, config: RRDBConfig | SRVGGConfig = X4, family: str = "original") -> Upscaler:
    model = catalog.open_for(ImageRequest(model=str(upscaler_file(path, config, family))), "cpu", "float32")
    assert isinstance(model, Upscaler)
    return model


def png(width: int, height: int) -> bytes:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def test_events_and_record(tmp_path: Path):
    model = opened(tmp_path / "toy.safetensors")
    assert all(weight.is_meta for weight in model.network.parameters())
    *stages, result = model.stream(ImageRequest(init_image=png(9, 7)))
    assert stages == [Stage("loading"), Stage("upscaling")] and isinstance(result, Result)
    assert result.images[0].size == (36, 28)
    (record,) = result.records
    assert (record.request.model, record.request.width, record.request.height) == ("toy.safetensors", 36, 28)
    assert list(record.inputs) == ["init_image"] and record.sigmas == ()
    again = model.generate(record.request.model_copy(update={"init_image": png(9, 7)}))
    assert again.images == result.images


@pytest.mark.parametrize(
    "config", [X4, X2, replace(X4, fold=4, num_doublings=2), COMPACT, replace(X4, num_doublings=0)]
)
@pytest.mark.parametrize("size", [(8, 8), (5, 3), (1, 1)])
def test_any_size_grows_by_the_scale(config: RRDBConfig | SRVGGConfig, size: tuple[int, int], tmp_path: Path):
    """Also where it is no multiple of what the network folds."""
    family = "numbered" if isinstance(config, RRDBConfig) and config.num_doublings == 0 else "original"
    model = opened(tmp_path / "toy.safetensors", config, family)
    model.load()
    assert model.enlarge(torch.zeros(1, 3, size[1], size[0]), FLAT).shape[2:] == (
        size[1] * model.scale,
        size[0] * model.scale,
    )


@torch.inference_mode()
def test_no_tile_is_larger_than_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So memory is bounded; and where the tiles see all that the network sees, they are the whole."""
    monkeypatch.setattr(upscaler, "TILE", 32)
    monkeypatch.setattr(upscaler, "OVERLAP", 30)
    model = opened(tmp_path / "toy.safetensors", replace(COMPACT, num_convs=1))  # sees 3 pixels around
    model.load()
    pixels = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen: list[tuple[int, ...]] = []
    handle = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    tiled = model.enlarge(pixels, FLAT)
    handle.remove()
    assert set(seen) == {(32, 32)} and len(seen) > 4
    monkeypatch.setattr(upscaler, "TILE", 64)
    whole = model.enlarge(pixels, FLAT)
    assert tiled.shape == whole.shape and (tiled - whole)[..., 16:-16, 16:-16].abs().mean() < 0.02


@torch.inference_mode()
def test_where_edges_meet_they_meet_in_the_larger_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = opened(tmp_path / "toy.safetensors")
    model.load()
    pixels = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    both = Wrap(True, True)
    larger = model.enlarge(pixels, both)
    assert torch.allclose(model.enlarge(pixels.roll(8, 3), both), larger.roll(32, 3), atol=1e-4)
    assert not torch.allclose(
        model.enlarge(pixels.roll(8, 3), FLAT), model.enlarge(pixels, FLAT).roll(32, 3), atol=1e-2
    )
    monkeypatch.setattr(upscaler, "TILE", 16)
    monkeypatch.setattr(upscaler, "OVERLAP", 8)
    larger = model.enlarge(pixels, both)
    assert torch.allclose(model.enlarge(pixels.roll((8, 8), (2, 3)), both), larger.roll((32, 32), (2, 3)), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "enlarges pictures and paints none; give it an init_image"),
        ({"init_image": png(8, 8), "prompt": "a fox"}, "prompt means nothing to this model"),
        ({"init_image": png(8, 8), "steps": 3}, "steps means nothing to this model"),
        ({"init_image": png(8, 8), "num_images": 2}, "makes one picture of one, not 2"),
        ({"init_image": png(8, 8), "width": 16, "upscale": Upscale(scale=2)}, "say the same"),
        ({"init_image": png(8, 8), "width": 16, "upscale": Upscale(cover=True)}, "needs a width and a height"),
        ({"init_image": png(8, 8), "upscale": Upscale(share=0.2)}, "share needs an upscale.model"),
        ({"init_image": png(8, 8), "upscale": Upscale(model="x")}, "second upscaler x, and none is loaded"),
        ({"init_image": b"x"}, "init_image: "),
        ({"init_image": png(3000, 1)}, "would become 12000 x 4"),
        ({"init_image": png(8, 8), "model": "other.safetensors"}, "the request is for the model other"),
    ],
)
def test_what_is_refused(fields: dict[str, object], sentence: str, tmp_path: Path):
    model = opened(tmp_path / "toy.safetensors")
    with pytest.raises(ValueError, match=sentence):
        model.generate(ImageRequest(**fields))
    assert not model.loaded


def test_damaged_weights_are_told(tmp_path: Path):
    model = opened(tmp_path / "toy.safetensors")
    model.load()
    model.network.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="gives no numbers in float32"):
        model.generate(ImageRequest(init_image=png(8, 8)))


def test_a_size_that_is_wished(tmp_path: Path):
    model = opened(tmp_path / "toy.safetensors")
    sizes = [{"width": 24}, {"height": 20}, {"width": 30, "height": 60}, {"width": 70}]
    found = [model.generate(ImageRequest(init_image=png(12, 10), **size)).images[0].size for size in sizes]
    assert found == [(24, 20), (24, 20), (30, 60), (70, 58)]


def test_a_scale_that_is_wished_and_what_stands_out(tmp_path: Path):
    model = opened(tmp_path / "toy.safetensors")
    wishes = [
        {"upscale": Upscale(scale=2)},
        {"upscale": Upscale(scale=1.5)},
        {"width": 36, "height": 20, "upscale": Upscale(cover=True)},
        {"width": 24, "height": 60, "upscale": Upscale(cover=True)},
    ]
    results = [model.generate(ImageRequest(init_image=png(12, 10), **wish)) for wish in wishes]
    assert [result.images[0].size for result in results] == [(24, 20), (18, 15), (36, 30), (72, 60)]
    for result in results:  # the record says the size, and paints the same again
        request = result.records[0].request
        assert request.upscale == Upscale() and (request.width, request.height) == result.images[0].size
        assert model.generate(request.model_copy(update={"init_image": png(12, 10)})).images == result.images


def test_two_models_laid_over_each_other(tmp_path: Path):
    paths = [upscaler_file(tmp_path / f"{name}.safetensors", X4, seed=seed) for seed, name in enumerate("ab")]
    picture = {"init_image": png(9, 7), "upscale": Upscale(scale=2)}
    alone = [
        catalog.open_for(ImageRequest(model=str(path)), "cpu", "float32").generate(ImageRequest(**picture)).images[0]
        for path in paths
    ]
    both = ImageRequest(
        model=str(paths[0]), init_image=png(9, 7), upscale=Upscale(scale=2, model=str(paths[1]), share=0.25)
    )
    model = catalog.open_for(both, "cpu", "float32")
    result = model.generate(both)
    blended, found = (
        np.asarray(image, dtype=int) for image in (Image.blend(alone[0], alone[1], 0.25), result.images[0])
    )
    assert np.abs(blended - found).max() <= 1 and np.abs(found - np.asarray(alone[0], dtype=int)).max() > 8
    (record,) = result.records
    assert (record.request.model, record.request.upscale.model) == ("a.safetensors", "b.safetensors")
    assert record.weights == model.hashes() and set(record.weights) == {"a.safetensors", "upscaler/b.safetensors"}
    assert "Postprocess upscaler: a, Postprocess upscaler 2: b" in infotext(record)


def test_lanczos_is_a_model_without_a_network():
    request = ImageRequest(model="lanczos", init_image=png(9, 7), upscale=Upscale(scale=3))
    model = catalog.open_for(request, "cpu", "float32")
    result = model.generate(request)
    expected = Image.open(BytesIO(png(9, 7))).resize((27, 21), Image.Resampling.LANCZOS)
    assert result.images[0].tobytes() == expected.tobytes()
    assert (result.records[0].request.model, result.records[0].weights) == ("lanczos", {})


@torch.inference_mode()
def test_pieces_answered_by_somebody_else_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upscaler, "TILE", 16)
    monkeypatch.setattr(upscaler, "OVERLAP", 4)
    model = opened(tmp_path / "toy.safetensors")
    request, works = ImageRequest(init_image=png(40, 20)), list[Enlarge]()
    for event in model.walk(request):
        if isinstance(event, Enlarge):
            works.append(event)
            event.answer()
    assert isinstance(event, Result) and event.images == model.generate(request).images
    assert [(work.index, work.total) for work in works] == [(index, 6) for index in range(6)]
    for event in model.walk(request):
        if isinstance(event, Enlarge):
            event.answer_in_tiles()
            assert event.larger is not None and event.larger.shape[2:] == tuple(4 * s for s in event.pixels.shape[2:])
    assert isinstance(event, Result) and event.notes == (upscaler.IN_SMALL_TILES,)


@pytest.mark.long
def test_the_command_and_its_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture, model = tmp_path / "small.png", upscaler_file(tmp_path / "4x-toy.safetensors")
    picture.write_bytes(png(10, 6))
    with pytest.raises(SystemExit, match="0"):
        main(["upscale", str(picture), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"])
    large = Path(capsys.readouterr().out.strip())
    assert Image.open(large).size == (40, 24)
    with pytest.raises(SystemExit, match="0"):
        main(["replay", str(large), "--init-image", str(picture)])
    assert "identical" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["upscale", str(picture), "--model", str(model), "--estimate"])
    assert "GiB of memory and" in capsys.readouterr().out
