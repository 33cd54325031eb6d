"""`marmo train`: recipes by name, their flags, what a run would cost, and how it ends when it is asked to."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from marmo.cli import train
from marmo.cli.main import main
from marmo.recipes import clip
from tests.recipes.shapes import shape
from tests.recipes.test_clip import small


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize("name", train.RECIPES)
def test_every_recipe_has_what_this_needs(name: str) -> None:
    recipe = import_module(f"marmo.recipes.{name}")
    assert callable(recipe.main) and all(config.folder for _, config in recipe.presets().values())


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["train"], ["train", "--help"]):
        code, out, _ = said(capsys, *arguments)
        assert code == 0 and all(name in out for name in train.RECIPES)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dreambooth"], "marmo: there is no recipe 'dreambooth'; choose tokenizer or clip or oracle"),
        (["clip", "tiny"], "marmo: there is nothing to learn from: give --data"),
        (["tokenizer", "tiny", "--dry-run"], "marmo: this recipe is done in less time than a forecast takes"),
        (["clip", "huge"], "marmo train clip"),
    ],
)
def test_what_cannot_be_trained_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    folder = ["--folder", tmp_path / "out"] if len(arguments) > 1 else []
    code, out, err = said(capsys, "train", *arguments, *folder)
    assert (code, out) == (2, "") and sentence in err


def test_a_recipe_runs_with_its_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = said(capsys, "train", "tokenizer", "tiny", "--data", "scenes", "--captions", 300,
                        "--vocab-size", 700, "--seed", -5, "--folder", tmp_path)  # fmt: skip
    assert (code, out.strip()) == (0, str(tmp_path / "tokenizer"))
    assert len(json.loads((tmp_path / "tokenizer" / "vocab.json").read_text())) == 700


@pytest.mark.long
def test_a_rehearsal_counts_and_leaves_nothing(tmp_path: Path) -> None:
    config = small(tmp_path / "out", images=64_000)
    told = train.rehearsal(lambda config: clip.main(config, shape), config).splitlines()
    parameters = sum(parameter.numel() for parameter in clip.build(config).clip.parameters())
    assert told[0] == f"model: {parameters:,} parameters"
    assert told[1] == "64,000 images, 8,000 updates of 8"
    assert "images a second" in told[2] and "GB of memory" in told[3]
    assert not list(tmp_path.iterdir())


def test_time_is_told_in_the_unit_that_people_use() -> None:
    assert train._duration(90) == "90 s" and train._duration(1800) == "30 min" and train._duration(7300) == "2.0 h"


@pytest.mark.long
def test_ctrl_c_saves_and_tells_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, once more, ends the training."""

    def interrupting(position: int):
        if position == 20 and not list((tmp_path / "checkpoints").glob("*")):
            signal.raise_signal(signal.SIGINT)
        return shape(position)

    config = small(tmp_path, images=48)
    monkeypatch.setattr("marmo.recipes.clip._source", lambda *_: interrupting)
    monkeypatch.setattr("marmo.recipes.clip.presets", lambda: {"tiny": ("", replace(config, folder=tmp_path))})
    code, _, err = said(capsys, "train", "clip", "tiny")
    assert code == 130 and err.endswith("marmo: stopped after 24 images; the same command goes on from there\n")
    code, out, _ = said(capsys, "train", "clip", "tiny")
    assert (code, out.strip()) == (0, str(tmp_path / "clip.safetensors"))


@pytest.mark.long
def test_no_recipe_is_imported_for_help() -> None:
    program = "import sys; from marmo.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    check = program + "assert 'torch' not in sys.modules and 'marmo.recipes' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
