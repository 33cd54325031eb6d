"""The model that comes with Marmo: found without a look at any other, and its pictures find it again."""

import subprocess
import sys
from pathlib import Path

import pytest

from marmo import catalog
from marmo.cli.serve import default_model
from marmo.library import bundled


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for bundled models with two in it."""
    for name in ("quartz", "pebble"):
        (tmp_path / "models" / name / "unet").mkdir(parents=True)
        (tmp_path / "models" / name / "model_index.json").write_text("{}")
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "models" / ".draft").mkdir()
    (tmp_path / "models" / ".draft" / "model_index.json").write_text("{}")
    monkeypatch.setattr(bundled, "MODELS", tmp_path / "models")
    return tmp_path / "models"


def test_the_first_by_name_is_the_default(shelf: Path):
    assert bundled.bundled_models() == [shelf / "pebble", shelf / "quartz"]
    assert bundled.bundled_model() == catalog.located(None) == default_model() == shelf / "pebble"


def test_the_settings_come_first(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = tmp_path / "settings.toml"
    monkeypatch.setenv("MARMO_SETTINGS", str(settings))
    settings.write_text(f'[models]\ndefault = "{shelf / "quartz"}"\n')
    assert catalog.located(None) == default_model() == shelf / "quartz"
    settings.write_text('[models]\ndefault = "unheard-of"\n')
    with pytest.raises(ValueError, match="there is no file, folder or model 'unheard-of'"):
        default_model()


def test_where_there_is_none_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    for ask in (bundled.bundled_model, default_model, lambda: catalog.located(None)):
        with pytest.raises(ValueError, match=r"no model comes with this copy of Marmo; give --model .* or train one"):
            ask()


def test_a_record_finds_it_by_its_sums(shelf: Path):
    own = {"pebble/unet/a.safetensors": "1" * 64, "pebble/README.md": "2" * 64, "quartz/unet/a.safetensors": "3" * 64}
    bundled.write_sums(shelf, own)
    assert bundled.read_sums(shelf) == own
    assert (shelf / "SHA256SUMS").read_text().splitlines()[0] == "2" * 64 + "  pebble/README.md"
    assert bundled.with_weights({"unet/a.safetensors": "3" * 64}) == shelf / "quartz"
    assert bundled.with_weights({"unet/a.safetensors": "4" * 64}) is None
    assert bundled.with_weights({}) is None


def test_it_is_found_without_torch():
    program = "import sys; from marmo.library import bundled; bundled.bundled_models(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
