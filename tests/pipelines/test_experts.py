"""A model and its refiner on one way, models read in another way, and an autoencoder that overflows."""

import json
from pathlib import Path

import pytest
import torch

import marmo
from benchmarks.checkpoint import FamilyName, random_checkpoint
from marmo import catalog
from marmo.diffusion.noise import STABLE_DIFFUSION, NoiseTable
from marmo.pipelines import first_stage
from marmo.pipelines.events import Step
from marmo.pipelines.experts import hand_over
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Painter
from marmo.request import ImageRequest, Refiner, Told
from marmo.weights.store import open_file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[FamilyName, Path]:
    folder = tmp_path_factory.mktemp("families")
    families: tuple[FamilyName, ...] = ("sd2", "sdxl", "sdxl-refiner")
    return {family: random_checkpoint(folder / f"{family}.safetensors", family=family) for family in families}


@pytest.fixture(scope="module")
def both(files: dict[FamilyName, Path]) -> LatentDiffusion:
    return marmo.load(files["sdxl"], device="cpu", dtype="float32", refiner=files["sdxl-refiner"])


def request(**fields: object) -> ImageRequest:
    small = {"prompt": "a red fox", "width": 64, "height": 48, "steps": 4, "seed": 7, "schedule": "trailing"}
    return ImageRequest(**{**small, **fields})


def refined(switch: float = 0.5) -> ImageRequest:
    return request(refiner=Refiner(model="sdxl-refiner.safetensors", switch=switch))


def test_the_level_of_the_switch_is_still_the_firsts():
    table = NoiseTable(STABLE_DIFFUSION)
    assert hand_over(table, 0.8) == float(table.sigmas[200].float())
    assert hand_over(table, 0.001) == float(table.sigmas[999].float())


@pytest.mark.long
@pytest.mark.parametrize(("switch", "counts"), [(0.5, [2, 2]), (0.6, [3, 1]), (0.999, [4, 0])])
def test_each_paints_its_share(both: LatentDiffusion, switch: float, counts: list[int]):
    asked = [0, 0]
    hooks = [
        painter.unet.register_forward_pre_hook(lambda *_, i=i: asked.__setitem__(i, asked[i] + 1))
        for i, painter in enumerate(both.painters)
    ]
    both.generate(refined(switch))
    for hook in hooks:
        hook.remove()
    assert asked == counts


@pytest.mark.long
def test_the_way_is_the_same_up_to_the_switch(both: LatentDiffusion):
    alone, together = ([e for e in both.stream(wanted) if isinstance(e, Step)] for wanted in (request(), refined()))
    same = [torch.equal(left.x0, right.x0) for left, right in zip(alone, together, strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.long
def test_the_record_holds_both_models(both: LatentDiffusion):
    record = both.generate(refined()).records[0]
    assert list(record.weights) == ["sdxl.safetensors", "refiner/sdxl-refiner.safetensors"]
    assert record.request.refiner == Refiner(model="sdxl-refiner.safetensors", switch=0.5)
    assert both.hashes() == record.weights
    assert list(both.generate(request()).records[0].weights) == ["sdxl.safetensors"]  # of those that painted


@pytest.mark.long
@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"refiner": Refiner(model="other.safetensors")}, "for the refiner other.safetensors, and sdxl-refiner"),
        (
            {"prediction": "v"},
            "sdxl.safetensors predicts v, and it was loaded as predicting eps; load it with prediction v",
        ),
        ({"zero_snr": True}, "has zero_snr True, and sdxl.safetensors was loaded with False"),
    ],
)
def test_a_request_for_other_models_is_refused(both: LatentDiffusion, wanted: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        both.resolve(request(**wanted))


@pytest.mark.long
def test_a_refiner_that_is_not_loaded_is_named(files: dict[FamilyName, Path]):
    opened = catalog.open_model(files["sdxl"], "cpu", "float32")
    with pytest.raises(ValueError, match=r"none is loaded; load the model with refiner sdxl-refiner\.safetensors"):
        opened.resolve(refined())


def test_a_refiner_of_other_latents_is_refused(files: dict[FamilyName, Path]):
    with pytest.raises(ValueError, match=r"sdxl.safetensors cannot refine sd2.safetensors: their latents"):
        catalog.open_model(files["sd2"], "cpu", "float32", refiner=files["sdxl"])


def test_what_a_model_does_not_hear_is_refused(files: dict[FamilyName, Path]):
    def resolve(family: FamilyName, **told: float) -> None:
        catalog.open_model(files[family], "cpu", "float32").resolve(request(told=Told(**told)))

    with pytest.raises(ValueError, match=r"^told.crop_left means nothing to sd2.safetensors; leave it out$"):
        resolve("sd2", crop_left=8)
    with pytest.raises(ValueError, match=r"told\.score means nothing to sdxl\.safetensors"):
        resolve("sdxl", score=8, crop_left=8)
    with pytest.raises(ValueError, match=r"told\.target_width means nothing to sdxl-refiner\.safetensors"):
        resolve("sdxl-refiner", target_width=8, score=8)


@pytest.mark.long
def test_one_of_two_models_that_hears_is_enough(both: LatentDiffusion):
    both.resolve(refined().model_copy(update={"told": Told(score=8, target_width=8)}))
    with pytest.raises(ValueError, match=r"told\.score means nothing to sdxl\.safetensors"):
        both.resolve(request(told=Told(score=8)))


@pytest.mark.long
def test_a_half_that_is_too_narrow_is_decoded_again(files: dict[FamilyName, Path]):
    """Weights that float16 holds and whose products it does not."""
    painter = Painter(catalog.find(files["sdxl"]), torch.device("cpu"), torch.float16)
    painter.load()
    painter.vae.decoder.conv_in.weight.data *= 10_000
    narrow = {name: weight.data_ptr() for name, weight in painter.vae.named_parameters()}
    latents = 40 * torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert not first_stage.decode(painter.vae, latents).isfinite().all()
    pixels, widened = painter.decode(latents)
    assert widened and pixels.isfinite().all() and pixels.std() > 0.1
    assert all(weight.data_ptr() == narrow[name] for name, weight in painter.vae.named_parameters())
    pixels, widened = painter.decode(latents / 10_000)
    assert not widened


# How a file is to be read


@pytest.mark.long
@pytest.mark.parametrize(
    ("scheduler", "options", "read"),
    [
        ({}, {}, ("eps", False)),
        ({}, {"prediction": "v"}, ("v", False)),
        ({}, {"prediction": "v", "zero_snr": True}, ("v", True)),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {}, ("v", True)),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"zero_snr": False}, ("v", False)),
    ],
)
def test_markers_are_read_and_overruled(
    tmp_path: Path, scheduler: dict[str, object], options: dict[str, object], read: tuple[str, bool]
):
    path = random_checkpoint(tmp_path / "xl.safetensors", family="sdxl", scheduler=scheduler)
    opened = catalog.open_model(path, "cpu", "float32", **options)
    assert (opened.card.target, opened.card.betas.zero_snr) == read
    resolved = opened.resolve(ImageRequest(seed=1))
    assert (resolved.prediction, resolved.zero_snr) == read
    again = catalog.open_for(resolved.model_copy(update={"model": str(path)}), "cpu", "float32")
    assert (again.card.target, again.card.betas) == (opened.card.target, opened.card.betas)  # a record says enough
    assert ({"v_pred", "ztsnr"} & open_file(path).infos.keys() == set()) == (not scheduler)


def test_pure_noise_shows_no_eps(files: dict[FamilyName, Path]):
    with pytest.raises(ValueError, match="zero terminal SNR"):
        catalog.find(files["sdxl"], zero_snr=True)


@pytest.mark.long
def test_defaults_follow_the_family(files: dict[FamilyName, Path], tmp_path: Path):
    checkpoint = random_checkpoint(tmp_path / "bare", family="sd2", scheduler={"prediction_type": "v_prediction"})
    config = json.loads((checkpoint / "unet" / "config.json").read_text())
    assert config["sample_size"] == 32  # by which diffusers paints what this model's own defaults say, 256 x 256
    (checkpoint / "marmo.json").unlink()
    v = catalog.find(checkpoint).defaults
    bare = random_checkpoint(tmp_path / "xl", family="sdxl")
    (bare / "marmo.json").unlink()
    sdxl = catalog.find(bare).defaults
    assert (v.width, v.height, v.clip_skip, v.empty_negative, v.prediction) == (768, 768, 2, "encoded", "v")
    assert (sdxl.width, sdxl.clip_skip, sdxl.empty_negative) == (1024, 2, "zeros")
    assert catalog.find(checkpoint, zero_snr=True).defaults.schedule == "trailing"
