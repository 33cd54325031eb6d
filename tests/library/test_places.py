"""Other programs' folders, as their own files describe them."""

import json
import sqlite3
from pathlib import Path

import pytest

from marmo.files.settings import ModelPlaces, Settings
from marmo.library.places import Place, places

EXTRA = """
# comments, as in ComfyUI's example
a111:
    base_path: {base}
    checkpoints: models/Stable-diffusion
    loras: |
        models/Lora
        models/LyCORIS

other:
    is_default: true
    custom_nodes: nodes
    vae: /abs/vae
empty:
"""


def paths(settings: ModelPlaces, origin: str) -> list[Path]:
    return [place.path for place in places(Settings(models=settings)) if place.origin == origin]


def test_comfyui(tmp_path: Path):
    (tmp_path / "extra_model_paths.yaml").write_text(EXTRA.format(base="webui"))
    expected = [
        tmp_path / "webui/models/Stable-diffusion",
        tmp_path / "webui/models/Lora",
        tmp_path / "webui/models/LyCORIS",
        Path("/abs/vae"),
    ]
    assert paths(ModelPlaces(comfyui=(tmp_path,)), "comfyui") == [tmp_path / "models", *expected]
    assert paths(ModelPlaces(comfyui=(tmp_path / "extra_model_paths.yaml",)), "comfyui") == expected


def test_a1111(tmp_path: Path):
    assert paths(ModelPlaces(a1111=(tmp_path,)), "a1111") == [tmp_path / "models", tmp_path / "embeddings"]


def invokeai(root: Path, *rows: str) -> Path:
    (root / "databases").mkdir()
    with sqlite3.connect(root / "databases" / "invokeai.db") as connection:
        connection.execute(
            "CREATE TABLE models (id TEXT NOT NULL PRIMARY KEY, config TEXT NOT NULL, "
            "path TEXT GENERATED ALWAYS as (json_extract(config, '$.path')) VIRTUAL NOT NULL)"
        )
        connection.executemany("INSERT INTO models (id, config) VALUES (?, ?)", enumerate(rows))
    connection.close()
    return root


def test_invokeai(tmp_path: Path):
    outside, inside = json.dumps({"path": "/disk/mine.safetensors"}), json.dumps({"path": "a-key/mine"})
    root = invokeai(tmp_path, outside, inside)
    models = ModelPlaces(invokeai=(root,))
    assert paths(models, "invokeai") == [root / "models", Path("/disk/mine.safetensors"), root / "models/a-key/mine"]
    (root / "invokeai.yaml").write_text("schema_version: 4.0.2\nmodels_dir: /disk/models\n")
    assert paths(models, "invokeai")[0] == Path("/disk/models")


def test_invokeai_s_database_is_only_read(tmp_path: Path):
    root = invokeai(tmp_path, json.dumps({"path": "x"}))
    file = root / "databases" / "invokeai.db"
    before = file.read_bytes()
    paths(ModelPlaces(invokeai=(root,)), "invokeai")
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == ["invokeai.db"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("extra_model_paths.yaml", b"a: [", "cannot be read"),
        ("extra_model_paths.yaml", b"a: !!python/object/apply:os.system ['touch x']", "cannot be read"),
        ("extra_model_paths.yaml", b"a: " + b"x" * 2_000_000, "more than"),
        ("extra_model_paths.yaml", b"\xff\xfe", "cannot be read"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, reason: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        paths(ModelPlaces(comfyui=(tmp_path,)), "comfyui")
    assert "\n" not in str(error.value) and not Path("x").exists()


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_broken_database(tmp_path: Path, content: bytes):
    (tmp_path / "databases").mkdir()
    (tmp_path / "databases" / "invokeai.db").write_bytes(content)
    with pytest.raises(ValueError, match="is no database of InvokeAI"):
        paths(ModelPlaces(invokeai=(tmp_path,)), "invokeai")


def test_a_place_that_is_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match="nothing is there"):
        list(places(Settings(), [tmp_path / "none"]))


def test_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snapshot = tmp_path / "models--anna--fox" / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--anna--foxes" / "snapshots" / "x").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert list(places(Settings()))[2:] == [Place("hub", snapshot)]
