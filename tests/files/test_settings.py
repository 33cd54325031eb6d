"""The settings: where they lie, what they may say, and the sentence for what they may not."""

from pathlib import Path

import pytest

from marmo.files.settings import Settings, models_folder, read_settings, settings_path


def test_no_file_is_no_settings(tmp_path: Path):
    assert read_settings(tmp_path / "none.toml") == Settings()


def test_paths_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("DISK", "/disk")
    file = tmp_path / "settings.toml"
    file.write_text('[models]\nfolders = ["~/a", "$DISK/b", "c"]\na1111 = ["/d"]\n[prompts]\nstyles = ["s.csv"]\n')
    settings = read_settings(file)
    assert settings.models.folders == (Path("/home/anna/a"), Path("/disk/b"), tmp_path / "c")
    assert (settings.models.a1111, settings.prompts.styles) == ((Path("/d"),), (tmp_path / "s.csv",))


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARMO_SETTINGS", "/x/mine.toml")
    assert settings_path() == Path("/x/mine.toml")
    monkeypatch.delenv("MARMO_SETTINGS")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert settings_path() == Path("/config/marmo/settings.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert settings_path() == Path("/home/anna/.config/marmo/settings.toml")
    monkeypatch.delenv("MARMO_MODELS")
    assert models_folder() == Path("/home/anna/.local/share/marmo/models")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[models\n", "settings.toml: Expected"),
        ("[models]\nfolder = []\n", "models.folder: no such setting"),
        ("[models]\nfolders = 3\n", "models.folders: must be a valid tuple, not 3"),
        ("[models]\nfolders = [3]\n", "not 3"),
        ("model = 'x'\n", "model: no such setting"),
        ("x = " + "[" * 5000, "settings.toml: "),
    ],
)
def test_what_no_settings_can_say(tmp_path: Path, text: str, reason: str):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_settings(file)
    assert reason in str(error.value) and str(error.value).startswith(str(file)) and "\n" not in str(error.value)
