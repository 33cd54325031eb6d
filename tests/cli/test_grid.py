"""`marmo grid`, the lists of `marmo generate`, and `marmo merge`, as a user meets them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.checkpoint import random_checkpoint
from marmo.files.pictures import read_record
from marmo.request_parts import Template
from tests.cli.test_train import said

Capture = pytest.CaptureFixture[str]
SMALL = ("--width", "64", "--height", "64", "--device", "cpu", "--dtype", "float32")


def cells(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cells").glob("*.png")}


@pytest.mark.long
def test_a_grid_and_what_changed_of_it(stand_in: Path, tmp_path: Path, capsys: Capture):
    out = tmp_path / "grid"
    common = ("grid", "a {red|blue} fox", "--model", stand_in, "--output", out, *SMALL)
    code, text, err = said(capsys, *common, "--x", "steps=1, 2", "--y", "prompt=S/R fox, cat")
    assert (code, err) == (0, ""), err
    assert text == f"4 of 4 cells painted, the others were there\n{out}/grid.png\n{out}/grid.html\n"
    first = cells(out)
    records = [read_record(out / "cells" / name) for name in first]
    assert {record.request.steps for record in records} == {1, 2} and len({record.seed for record in records}) == 1
    assert {record.request.template for record in records} == {
        Template(prompt="a {red|blue} fox"), Template(prompt="a {red|blue} cat"),
    }  # fmt: skip
    with Image.open(out / "grid.png") as picture:
        assert picture.width > 128 and picture.height > 128
    said(capsys, *common, "--x", "steps=1, 2", "--y", "prompt=S/R fox, cat")
    assert cells(out) == first
    code, text, _ = said(capsys, *common, "--x", "steps=1-3", "--y", "prompt=S/R fox, cat", "--json")
    assert json.loads(text)["painted"] == 2 and len(cells(out)) == 6
    next((out / "cells").iterdir()).unlink()
    assert (
        json.loads(said(capsys, *common, "--x", "steps=1-3", "--y", "prompt=S/R fox, cat", "--json")[1])["painted"] == 1
    )


@pytest.mark.long
def test_a_grid_over_models(stand_in: Path, tmp_path: Path, capsys: Capture):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "first.safetensors").symlink_to(stand_in)
    random_checkpoint(tmp_path / "shelf" / "second.safetensors", seed=1)
    code, _, err = said(
        capsys, "grid", "a fox", "--x", "model=first, second", "--output", tmp_path / "g", "--steps", "1",
        "--models-dir", tmp_path / "shelf", *SMALL,
    )  # fmt: skip
    assert (code, err) == (0, ""), err
    models = {read_record(tmp_path / "g" / "cells" / name).request.model for name in cells(tmp_path / "g")}
    assert models == {"first.safetensors", "second.safetensors"}


@pytest.mark.long
def test_a_killed_grid_goes_on(stand_in: Path, tmp_path: Path, capsys: Capture):
    out = tmp_path / "g"
    arguments = ("grid", "a fox", "--x", "steps=1-30", "--model", stand_in, "--output", out, *SMALL)
    command = [sys.executable, "-m", "marmo", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 200
    while not (out / "cells").is_dir() or len(cells(out)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: (out / "cells" / name).stat().st_mtime_ns for name in cells(out)}
    code, text, _ = said(capsys, *arguments, "--json")
    assert code == 0 and json.loads(text)["painted"] == 30 - len(before)
    assert {name: (out / "cells" / name).stat().st_mtime_ns for name in before} == before
    assert (out / "grid.html").is_file()


def test_wrong_grids(stand_in: Path, tmp_path: Path, capsys: Capture):
    for flags, reason in (
        (("--x", "step=1"), "did you mean steps?"),
        (("--x", "steps=0, 1"), "the cell of steps 0: steps: must be greater than or equal to 1"),
        (("--x", "steps=1", "--num-images", "2"), "a cell of a grid holds one picture"),
        (("--x", "prompt=S/R owl, cat"), "the prompt holds no 'owl' that S/R could replace"),
        (("--x", "width=60, 64", "--steps", "1"), "width 60 is not a multiple of 8"),
    ):
        code, out, err = said(capsys, "grid", "a fox", "--model", stand_in, "--output", tmp_path / "g", *flags)
        assert (code, out) == (2, "") and reason in err and err.count("\n") == 1
        assert not (tmp_path / "g" / "cells").exists()


@pytest.mark.long
def test_lists_become_pictures(stand_in: Path, tmp_path: Path, capsys: Capture):
    (tmp_path / "prompts.txt").write_text('a {red|green} __animal__\n--prompt "an owl" --steps 2 --seed 9\n')
    (tmp_path / "animal.txt").write_text("fox\n")
    (tmp_path / "styles.csv").write_text('name,prompt,negative_prompt\nink,"ink, {prompt}",photo\n')
    (tmp_path / "small.toml").write_text("width = 64\nheight = 64\nsteps = 1\nseed = 4\n")
    code, out, err = said(
        capsys, "generate", "--prompts-file", tmp_path / "prompts.txt", "--preset", tmp_path / "small.toml",
        "--style", "ink", "--styles-file", tmp_path / "styles.csv", "--wildcards", tmp_path, "--model", stand_in,
        "--num-images", "2", "--name", "{prompt}-{seed}", "--output", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert (code, err) == (0, ""), err
    records = [read_record(Path(line)) for line in out.splitlines()]
    assert [(record.seed, record.request.steps, record.request.num_images) for record in records] == [
        (4, 1, 1), (5, 1, 1), (9, 2, 2), (10, 2, 2),
    ]  # fmt: skip
    assert {record.request.prompt for record in records[:2]} <= {"ink, a red fox", "ink, a green fox"}
    assert {record.request.negative_prompt for record in records} == {"photo"}
    assert records[0].request.template == Template(prompt="a {red|green} __animal__", styles=("ink",))
    with Image.open(out.splitlines()[0]) as picture:
        assert "Template: a {red|green} __animal__, Styles: ink, Version: marmo" in picture.info["parameters"]
    assert said(capsys, "replay", out.splitlines()[0])[:2] == (0, "identical: every pixel is the same\n")


def test_nothing_asked(stand_in: Path, capsys: Capture):
    code, out, err = said(capsys, "generate", "--model", stand_in)
    assert (code, out) == (2, "") and "say what to paint: a prompt in quotes" in err


@pytest.mark.long
def test_merge(stand_in: Path, tmp_path: Path, capsys: Capture):
    other = random_checkpoint(tmp_path / "other.safetensors", seed=1)
    target = tmp_path / "both.safetensors"
    arguments = ("merge", stand_in, other, "--output", target, "--weight", "0.25")
    assert said(capsys, *arguments) == (0, f"{target}\n", "")
    said_of_it = said(capsys, "inspect", target)[1]
    assert "merged: weighted-sum of stand-in.safetensors (" in said_of_it and "weight 0.25" in said_of_it
    for flags, reason in (
        ((), "both.safetensors exists; choose another name or --overwrite"),
        (("--overwrite", "--blocks", "1,2"), "25 weights"),
        (("--overwrite", "--blocks", "1,x"), "--blocks is numbers between commas"),
        (("--overwrite", "--method", "add-difference"), "add-difference takes 3 models, not 2"),
    ):
        code, out, err = said(capsys, *arguments, *flags)
        assert (code, out) == (2, "") and reason in err and err.count("\n") == 1
