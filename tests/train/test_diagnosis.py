"""What became of a run: every rule on numbers made for it, and runs that were spoilt on purpose, told apart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from marmo.cli.main import main as marmo
from marmo.data.heldout import split_of
from marmo.models.pixel_unet import PIXEL_TOY, PixelUNetConfig
from marmo.recipes import ddpm
from marmo.train.diagnosis import Diagnosis, diagnose
from marmo.train.log import Log


def course(validation: list[float], train: list[float], **others: float) -> list[dict[str, float]]:
    """One row for every thousand images."""
    pairs = zip(validation, train, strict=True)
    return [
        {"images": 1000 * (index + 1), "loss": b, "lr": 0.1, "validation": a, "validation_train": b, **others}
        for index, (a, b) in enumerate(pairs)
    ]


GOOD = [0.5, 0.3, 0.2, 0.151, 0.15]


@pytest.mark.parametrize(
    ("rows", "verdict", "words"),
    [
        (course(GOOD, GOOD), "healthy", "0.15 after 5,000 images"),
        (course(GOOD, GOOD, baseline=0.2), "healthy", "the best linear filter has 0.2"),
        (course(GOOD, GOOD, baseline=0.1), "underfits", "a larger network"),
        (course([0.5, 0.3, 0.2, 0.15, 0.1], [0.5, 0.3, 0.2, 0.15, 0.1]), "underfits", "let it see more images"),
        (course([0.5, 0.3, 0.2, 0.15, 0.1], GOOD, baseline=0.2), "healthy", "more images: the loss still falls"),
        (course([0.5, 0.2, 0.15, 0.16, 0.18], GOOD, baseline=0.2), "overfits", "stop after about 3,000 images"),
        (course([0.5, 0.2, 0.15, 0.16, 0.18], [0.5, 0.2, 0.15, 0.16, 0.18], baseline=0.2), "healthy", "0.18"),
        (course([0.5, 0.2, 0.4, 0.8, 0.9], [0.5, 0.2, 0.4, 0.8, 0.9]), "diverges", "lost what it had learnt"),
        (course([9.0, 1.2, 1.01, 1.0, 1.0], [9.0, 1.2, 1.01, 1.0, 1.0]), "diverges", "largest loss on the way: 9"),
        (course(GOOD, GOOD, copied=0.8, copied_usual=0.01, copied_z=9.0), "memorises", "80% of what it paints"),
        (course(GOOD, GOOD, copied=0.8, copied_usual=0.75, copied_z=9.0), "healthy", "80% of what it paints"),
        (course(GOOD, GOOD, copied=0.8, copied_usual=0.01, copied_z=1.0), "healthy", "1.0% of other real ones"),
        (course(GOOD[:2], GOOD[:2]), "too short", "2 measurements"),
        ([], "too short", "0 measurements"),
        ([{"images": 1, "loss": 2.0}], "too short", "0 measurements"),
    ],
)
def test_every_rule(rows: list[dict[str, float]], verdict: str, words: str) -> None:
    found = diagnose(rows)
    assert found.verdict == verdict and words in str(found)


def test_rows_without_measurements_are_passed_over() -> None:
    """A loss that is logged more often, and what another recipe writes on rows of their own."""
    rows = [row for tried in course(GOOD, GOOD) for row in ({"images": tried["images"] - 500, "loss": 0.4}, tried)]
    assert diagnose(rows) == diagnose(course(GOOD, GOOD, loss=0.4))


def test_a_rate_that_fell_is_no_proof_of_smallness() -> None:
    rows = course(GOOD, GOOD, baseline=0.1)
    rows[-1]["lr"] = 0.0
    assert diagnose(rows).advice.startswith("let it see more images")


TOY = replace(PIXEL_TOY, in_channels=1, out_channels=1, side=8)
USUAL = replace(
    ddpm.tiny(),
    model=TOY,
    images=8_192,
    compared=256,
    samples=128,
    log_images=1_024,
    validate_images=2_048,
    save_images=0,
)
PLANTED: dict[str, tuple[str, int, dict[str, object]]] = {
    "enough pictures": ("healthy", 1024, {}),
    "too high a rate": ("diverges", 1024, {"lr": 1.0, "warmup": 0, "clip": None}),
    "too small a network": (
        "underfits",
        1024,
        {"model": PixelUNetConfig(
            in_channels=1, out_channels=1, channels=(4,), attends=(False,), num_res_blocks=1, num_groups=2, side=8
        )},
    ),
    "few pictures, many epochs": ("overfits", 32, {"images": 11_264}),
    "a dozen pictures, very many epochs": ("memorises", 12, {}),
}  # fmt: skip


def digits() -> torch.Tensor:
    """scikit-learn's 1,797, shuffled.  N 1 8 8 in [-1, 1]"""
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().data / 8 - 1).float().reshape(-1, 1, 8, 8)
    return pixels[np.random.RandomState(0).permutation(len(pixels))]


@pytest.mark.long
@pytest.mark.parametrize(("verdict", "count", "changes"), PLANTED.values(), ids=PLANTED)
def test_planted_runs_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict: str, count: int, changes: dict[str, object]
) -> None:
    """Really trained, on digits; those that are kept apart are the same 256 for all."""
    pictures = digits()
    ddpm.main(replace(USUAL, folder=tmp_path, **changes), split_of(pictures[:count], pictures[-256:], seed=0))  # type: ignore[arg-type]
    found = diagnose(list(Log(tmp_path).rows()))
    assert found.verdict == verdict, found
    with pytest.raises(SystemExit):
        marmo(["diagnose", str(tmp_path)])
    assert capsys.readouterr().out.startswith(f"{verdict}: ")


def test_the_command_speaks_json_and_refuses_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in course(GOOD, GOOD)) + '{"cut": ')
    with pytest.raises(SystemExit) as end:
        marmo(["diagnose", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and Diagnosis(**{**told, "figures": tuple(told["figures"])}).verdict == "healthy"
    with pytest.raises(SystemExit) as end:
        marmo(["diagnose", str(tmp_path / "nowhere")])
    assert end.value.code == 2 and "no folder of a training" in capsys.readouterr().err
