"""`marmo models` as a user meets it."""

import json
from pathlib import Path

import pytest

from marmo.weights.store import sha256
from tests.cli.test_train import said


def test_the_list(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "fox.safetensors").symlink_to(stand_in)
    (tmp_path / "old.ckpt").write_bytes(b"PK\x03\x04" + bytes(60))
    code, out, err = said(capsys, "models", "--models-dir", tmp_path)
    assert (code, err) == (0, "")
    assert "fox  Stable Diffusion 1, 10.3 MB, --model\n" in out
    assert f"  {tmp_path}/old.ckpt: it is a legacy pickle" in out
    code, out, err = said(capsys, "models", "--models-dir", tmp_path, "--usable", "--hash", "--json")
    rows = {row["name"]: row for row in json.loads(out)["models"]}
    assert rows["fox"]["sha256"] == sha256(stand_in) and rows["fox"]["id"].startswith("fox.")
    assert "old" not in rows and "evaluator" not in rows


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = said(capsys, "models", "--models-dir", tmp_path / "none")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "nothing is there" in err
