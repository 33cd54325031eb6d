"""DDPM's recipe: the paper's loss, the residue of too few levels, learning, resuming, every knob, copies."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marmo.catalog import open_for
from marmo.data.heldout import Split, split_of
from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.noise import NoiseTable
from marmo.models.pixel_unet import PIXEL_TOY
from marmo.recipes.ddpm import Config, Trials, build, levels, loss, main, residue, tiny
from marmo.request import ImageRequest
from marmo.weights.store import open_file

SMALL = replace(PIXEL_TOY, in_channels=1, out_channels=1, channels=(8,), attends=(False,), num_groups=4, side=8)
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def bars(count: int, seed: int = 0) -> torch.Tensor:
    """One bright row each, on black: a structure that no mean and no covariance hold.  N 1 8 8"""
    draw = torch.Generator().manual_seed(seed)
    pictures = torch.full((count, 1, 8, 8), -1.0)
    places = torch.randint(8, (count,), generator=draw)
    pictures[torch.arange(count), 0, places] = torch.rand(count, 1, generator=draw)
    return pictures


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of(bars(256), bars(64, seed=1), seed=0)


def small(folder: Path, **changes: object) -> Config:
    few = {
        "model": SMALL,
        "images": 16,
        "batch_size": 8,
        "schedule": "constant",
        "warmup": 0,
        "samples": 8,
        "steps": 4,
        "compared": 24,
    }
    few |= {"lr": 2e-3, "log_images": 8, "validate_images": 8, "save_images": 0}
    return replace(tiny(), folder=folder, **(few | changes))


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def parametrisation(config: Config) -> Parametrisation:
    return Parametrisation("eps", NoiseTable(levels(config)))


def test_levels_are_drawn_evenly():
    """Every level has its turn, and the loss of an answer of 0 is the noise's variance."""
    means, clocks = parametrisation(replace(tiny(), levels=10)), []

    def network(x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        clocks.extend(clock.round().int().tolist())
        return torch.zeros_like(x)

    torch.manual_seed(0)
    assert loss(network, means, torch.zeros(2000, 1, 4, 4)).item() == pytest.approx(1, abs=0.02)
    counts = np.bincount(clocks, minlength=10)
    assert len(counts) == 10 and counts.min() > 150 and counts.max() < 250


def test_what_the_last_level_leaves():
    """systems.md's figures: T = 300 leaves 21.9 % of the amplitude, the paper's T = 1000 4.04e-5 of the variance."""
    assert residue(levels(replace(tiny(), levels=300))) == pytest.approx(0.2192, abs=1e-4)
    assert residue(levels(tiny())) ** 2 == pytest.approx(4.04e-5, rel=1e-2)
    assert residue(levels(replace(tiny(), noise="cosine", levels=300))) < 1e-3
    with pytest.raises(ValueError, match="2 levels of noise or more, not 1"):
        levels(replace(tiny(), levels=1))


def test_a_new_network_answers_nothing():
    network = build(small(Path("nowhere")))
    assert torch.equal(network(torch.randn(2, 1, 8, 8), torch.tensor([1.0, 9.0])), torch.zeros(2, 1, 8, 8))


@pytest.mark.long
def test_tiny_learns(tmp_path: Path, split: Split):
    """It comes to know more of unseen bars than the best linear filter does."""
    path = main(
        replace(tiny(), folder=tmp_path, model=replace(PIXEL_TOY, in_channels=1, out_channels=1, side=8)), split
    )
    tried = [row for row in rows(tmp_path) if "validation" in row]
    assert tried[-1]["validation"] < 0.7 * tried[0]["validation"] and tried[-1]["validation"] < tried[-1]["baseline"]
    assert tried[-1]["validation"] == pytest.approx(np.mean([tried[-1][f"validation_{i}"] for i in (1, 2, 3, 4)]))
    assert len(list((tmp_path / "samples").glob("*.png"))) == len(tried)
    model = open_for(ImageRequest(model=str(path)), "cpu", None)
    (picture,) = model.generate(ImageRequest(seed=1, steps=20, sampler="dpmpp_2m", schedule="karras")).images
    pixels = np.asarray(picture.convert("L"), dtype=float)
    assert pixels.shape == (8, 8) and np.ptp(pixels.mean(1)) > 2 * np.ptp(pixels.mean(0)), "rows, not columns"


@pytest.mark.long
def test_resumed_is_unbroken(tmp_path: Path, split: Split):
    usual = {"model": replace(SMALL, dropout=0.2), "flip": True}
    straight = main(small(tmp_path / "straight", images=32, **usual), split)
    main(small(tmp_path / "broken", images=16, save_images=16, **usual), split)
    broken = main(small(tmp_path / "broken", images=32, save_images=16, **usual), split)
    assert (broken / WEIGHTS).read_bytes() == (straight / WEIGHTS).read_bytes()
    bare = [[{**row, "time": 0} for row in rows(tmp_path / name)] for name in ("straight", "broken")]
    assert bare[0][-1] == bare[1][-1]


@pytest.mark.long
def test_what_was_learnt_is_begun_with(tmp_path: Path, split: Split):
    first = main(small(tmp_path / "first"), split)
    again = small(tmp_path / "again", images=8, lr=0.0, model=Config().model, from_=first)  # what it brings wins
    before, after = open_file(first / WEIGHTS), open_file(main(replace(again, ema=None), split) / WEIGHTS)
    assert all(torch.equal(before.read(name), after.read(name)) for name in before.infos)


ACTS = {
    "flip": True,
    "model": replace(SMALL, num_res_blocks=2),
    "noise": "cosine",
    "levels": 300,
    "batch_size": 4,
    "lr": 5e-3,
    "schedule": "linear",
    "warmup": 16,
    "tail": 12,
    "betas": (0.5, 0.6),
    "weight_decay": 0.9,
    "clip": 1e-4,
    "ema": 0.2,
    "seed": 1,
}  # fmt: skip
ELSEWHERE = {
    *("folder", "images", "device", "dtype", "workers", "log_images", "validate_images", "save_images", "keep"),
    *("data", "heldout", "from_", "decay", "compared", "samples", "steps"),  # tested above, below or of the data
}


@pytest.mark.long
def test_every_knob_acts(tmp_path: Path):
    split = split_of(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), bars(16), seed=0)
    assert ACTS.keys() | ELSEWHERE == {field.name for field in fields(Config)}
    few = {"samples": 0, "validate_images": 0}
    seen = {"usual": (main(small(tmp_path / "usual", **few), split) / WEIGHTS).read_bytes()}
    decay = small(tmp_path / "decay", ema=None, decay=0.5, **few)
    seen["decay"] = (main(decay, split) / WEIGHTS).read_bytes()
    for knob, value in ACTS.items():
        config = small(tmp_path / knob, **few, **{knob: value})
        seen[knob] = (main(config, split) / "unet" / WEIGHTS.name).read_bytes()
    seen["levels"] += (tmp_path / "levels" / "model" / "scheduler" / "scheduler_config.json").read_bytes()
    assert len(set(seen.values())) == len(seen), "two knobs do the same"


def test_how_much_is_compared_and_painted(split: Split):
    usual = small(Path("nowhere"))
    network, device = build(usual), torch.device("cpu")
    trials = Trials(split, parametrisation(usual), replace(usual, compared=5, samples=3), device)
    assert len(trials.heldout.pictures) == len(trials.train.pictures) == 5
    network.conv_out.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    painted = trials.paint(network)
    assert painted.shape == (3, 1, 8, 8) and painted.abs().max() <= 1
    more = Trials(split, parametrisation(usual), replace(usual, compared=30, samples=3, steps=9), device)
    assert not torch.equal(painted, more.paint(network))
    assert more.copies(painted).keys() == {"copied", "copied_usual", "copied_z"} and more.copies(painted[:0]) == {}
    assert trials.copies(painted) == {}, "five pictures do not show what is usual"


def test_copies_are_found(split: Split):
    """Painted pictures that are training pictures, and others that are as new as the ones kept apart."""
    draw = torch.Generator().manual_seed(0)
    train, heldout, new = (torch.randn(64, 1, 8, 8, generator=draw) for _ in range(3))
    trials = Trials(
        split_of(train, heldout, 0), parametrisation(tiny()), replace(tiny(), compared=64), torch.device("cpu")
    )
    again, fresh = trials.copies(train[:32] + 0.01), trials.copies(new)
    assert again["copied"] > 0.9 and again["copied_z"] > 3 > abs(fresh["copied_z"]) and fresh["copied"] < 0.2


def test_pictures_come_from_a_folder(tmp_path: Path):
    """Grey ones of 8 pixels, without captions; a tenth is kept apart."""
    (tmp_path / "digits").mkdir()
    for index, picture in enumerate(bars(20)):
        levels = ((picture[0] + 1) * 127.5).byte().numpy()
        Image.fromarray(levels).save(tmp_path / "digits" / f"{index:02}.png")
    main(small(tmp_path / "out", data=tmp_path / "digits"))
    assert rows(tmp_path / "out")[-1]["epoch"] == pytest.approx(16 / 18)


def test_wrong_input_is_one_sentence(tmp_path: Path, split: Split):
    with pytest.raises(ValueError, match="nothing to learn from: give --data"):
        main(small(tmp_path / "a"))
    with pytest.raises(ValueError, match="two averages"):
        main(small(tmp_path / "b", decay=0.9), split)
    with pytest.raises(ValueError, match="nothing"):
        main(small(tmp_path / "c", model=Config().model, from_=tmp_path / "nothing"), split)


PROGRAM = """
import sys
from pathlib import Path
from marmo.data.heldout import split_of
from marmo.recipes.ddpm import main
from marmo.train.run import leave
from tests.recipes.test_ddpm import bars, small
main(small(Path(sys.argv[1]), images=32), split_of(bars(64), bars(16, seed=1), 0))
leave()
"""


@pytest.mark.long
def test_two_processes_train_one_model(tmp_path: Path):
    """Each draws noise of its own, so the sum is not that of one process; what they try is."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "program.py")]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "two")],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["src", "."])},
    )  # fmt: skip
    assert (tmp_path / "two" / "done.json").exists(), done.stderr
    main(small(tmp_path / "one", images=32), split_of(bars(64), bars(16, seed=1), 0))
    one, two = (rows(tmp_path / name) for name in ("one", "two"))
    assert [row["baseline"] for row in one] == pytest.approx([row["baseline"] for row in two])
    assert one[-1]["validation"] == pytest.approx(two[-1]["validation"], rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_digits_are_better_than_the_best_gaussian(tmp_path: Path):
    """docs/ddpm.md has what was measured, and how long it takes."""
    from benchmarks.digits import SAMPLES, measured, painted, write_digits
    from marmo.pipelines.pixel_diffusion import PixelDiffusion
    from marmo.recipes.ddpm import digits

    train, test = write_digits(tmp_path)
    path = main(replace(digits(), folder=tmp_path / "out", data=train, heldout=test))
    model = open_for(ImageRequest(model=str(path)), "cpu", "float32")
    assert isinstance(model, PixelDiffusion)
    found = measured(painted(model, SAMPLES, 25, "dpmpp_2m"))
    assert found.frechet <= 0.27 and 1.0 <= found.neighbour <= 1.35 and found.copies <= 0.02
