"""Models at hand: what is found, what each is of use for, why not, and which one a name means."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.library import memory
from marmo.library.identify import Found, catalogue_id
from marmo.library.places import Place
from marmo.library.scan import MAX_ENTRIES, candidates
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_single_file
from marmo.weights.store import from_state, open_file, sha256, write


def others(folder: Path) -> dict[str, Path]:
    """Files of kinds that Marmo does not paint with, under names that say nothing."""
    names = {
        "lora": [
            "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
            "lora_unet_mid_block_attentions_0_proj_in.alpha",
        ],
        "peft": ["unet.mid_block.attentions.0.proj_in.lora_A.weight"],
        "embedding": ["emb_params"],
        "xl-embedding": ["clip_g", "clip_l"],
        "controlnet": ["control_model.zero_convs.0.0.weight"],
        "flux": ["double_blocks.0.img_attn.qkv.weight"],
        "sd3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
        "strange": ["something.weight"],
    }
    for name, tensors in names.items():
        write(folder / f"{name}.safetensors", from_state({tensor: torch.zeros(1) for tensor in tensors}))
    (folder / "old.ckpt").write_bytes(b"\x80\x02}q\x00." + bytes(100))
    (folder / "zip.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "llama.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "page.safetensors").write_bytes(b"<!doctype html><html>" + bytes(100))
    (folder / "notes.txt").write_text("not a model")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, stand_in: Path, stand_in_folder: Path) -> Path:
    """A folder as people have them."""
    folder = tmp_path_factory.mktemp("shelf")
    others(folder)
    (folder / "sd").mkdir()
    (folder / "sd" / "狐 fox v1.5.safetensors").symlink_to(stand_in)
    (folder / "sd" / "folder").symlink_to(stand_in_folder)
    (folder / "vae-only.safetensors").symlink_to(_alone(stand_in, "vae", folder / ".hidden"))
    (folder / "unet-only.safetensors").symlink_to(_alone(stand_in, "unet", folder / ".hidden"))
    (folder / "loop").symlink_to(folder)
    state = {name: open_file(stand_in).read(name) for name in open_file(stand_in).infos}
    write(folder / "torn.safetensors", from_state(state))
    with (folder / "torn.safetensors").open("r+b") as file:
        file.truncate(5_000_000)
    return folder


def _alone(stand_in: Path, slot: str, folder: Path) -> Path:
    checkpoint = open_checkpoint(stand_in)
    part = next(part for name, part in checkpoint.parts.items() if name == slot)
    write_single_file(replace(checkpoint, parts={slot: part}, kind=None, scheduler={}), folder / f"{slot}.safetensors")
    return folder / f"{slot}.safetensors"


def by_name(folder: Path) -> dict[str, Found]:
    return {found.name: found for found in catalog.models([folder]) if found.origin == "folder"}


@pytest.mark.long
def test_everything_is_told_apart(shelf: Path, stand_in: Path):
    found = by_name(shelf)
    fox = found["狐 fox v1.5"]
    assert (fox.use, fox.family, fox.kind, fox.num_bytes) == (
        "paint",
        "sd1",
        "Stable Diffusion 1",
        stand_in.stat().st_size,
    )
    assert fox.defaults is not None and fox.defaults.steps == 12
    assert (found["folder"].use, found["folder"].family) == ("paint", "sd1")
    assert (found["vae-only"].use, found["vae-only"].kind) == ("vae", "autoencoder")
    reasons = {name: model.reason or "" for name, model in found.items() if not model.use}
    expected = {
        "unet-only": "one network, a U-Net, which cannot paint without the others",
        "lora": "it is a LoRA",
        "peft": "it is a LoRA",
        "embedding": "it is an embedding",
        "xl-embedding": "it is an embedding",
        "controlnet": "it is a ControlNet",
        "flux": "a model of another kind, Flux",
        "sd3": "a model of another kind, Stable Diffusion 3",
        "strange": "no network that Marmo knows",
        "old": "`marmo convert` makes safetensors of it",
        "zip": "`marmo convert` makes safetensors of it",
        "llama": "GGUF files are not read",
        "empty": "it is empty",
        "page": "it is a web page",
        "torn": "bytes, but",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name] and str(shelf) not in reasons[name], reasons[name]


@pytest.mark.long
def test_ids_stay_when_files_move(shelf: Path, stand_in: Path, tmp_path: Path):
    fox = by_name(shelf)["狐 fox v1.5"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "狐 fox v1.5.safetensors").write_bytes(stand_in.read_bytes())
    random_checkpoint(tmp_path / "狐 fox v1.5.safetensors", seed=1)
    ids = {found.path.parent.name: found.id for found in catalog.models([tmp_path]) if found.origin == "folder"}
    assert ids["elsewhere"] == fox.id != ids[tmp_path.name]
    assert all(ident.startswith("fox-v1-5.") and ident.isascii() for ident in ids.values())


@pytest.mark.parametrize(
    ("name", "stem"),
    [("狐", "model"), ("a/b", "a-b"), ("..", "model"), ("x" * 200, "x" * 60), ("v1-5_ema", "v1-5_ema")],
)
def test_ids_are_plain(name: str, stem: str):
    assert catalogue_id(name, "0123456789abcdef") == f"{stem}.01234567"


def test_a_hash_is_taken_once(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARMO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.safetensors").write_bytes(stand_in.read_bytes())
    (found,) = by_name(tmp_path / "m").values()
    assert found.known_hash() is None
    assert found.sha256() == sha256(stand_in) == found.known_hash()


def test_what_was_found_is_remembered(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARMO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(stand_in.read_bytes())
    things = list(candidates([Place("folder", folder)]))
    opened: list[str] = []

    def identify(candidate: object) -> Found:
        opened.append("opened")
        return Found(path=folder / "a.safetensors", origin="folder", name="a", print="0" * 64, kind="x", num_bytes=1)

    first = list(memory.remembered(things, identify))
    assert list(memory.remembered(things, identify)) == first and len(opened) == 1
    os.utime(folder / "a.safetensors", (1, 1))
    list(memory.remembered(things, identify))
    assert len(opened) == 2
    (tmp_path / "cache" / "models.json").write_text("[]")
    assert list(memory.remembered(things, identify)) == first and len(opened) == 3


# Names


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Marmo's own folder with a model in each of two folders, under one name."""
    monkeypatch.setenv("MARMO_MODELS", str(tmp_path))
    for seed, folder in enumerate(["a", "b"]):
        (tmp_path / folder).mkdir()
        random_checkpoint(tmp_path / folder / "Fox.safetensors", seed=seed)
    return tmp_path


@pytest.mark.long
def test_a_model_may_be_named(two: Path, stand_in: Path):
    random_checkpoint(two / "Owl.safetensors", seed=2)
    (two / "c").mkdir()
    (two / "c" / "Owl.safetensors").write_bytes((two / "Owl.safetensors").read_bytes())
    for name in ("Owl", "owl", "Owl.safetensors"):
        assert catalog.located(name) in (two / "Owl.safetensors", Path(name))
    assert catalog.located("Owl").parent in (two, two / "c")  # the same twice is no question
    ids = {found.path.parent.name: found.id for found in catalog.models() if found.name == "Fox"}
    with pytest.raises(ValueError, match="several models are called Fox; say which") as error:
        catalog.located("Fox")
    assert all(ident in str(error.value) for ident in ids.values())
    assert catalog.located(ids["b"]) == two / "b" / "Fox.safetensors"
    assert catalog.find(ids["a"]).path == two / "a" / "Fox.safetensors"
    assert catalog.located(str(stand_in)) == stand_in


def test_a_name_that_nothing_has(two: Path):
    with pytest.raises(ValueError, match=r"there is no file, folder or model 'Foxx'; did you mean Fox\?"):
        catalog.located("Foxx")
    with pytest.raises(ValueError, match="`marmo models` lists"):
        catalog.located("zzzzzz")


def test_the_default(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = tmp_path / "settings.toml"
    monkeypatch.setenv("MARMO_SETTINGS", str(settings))
    settings.write_text('[models]\ndefault = "b/Fox.safetensors"\n')
    with pytest.raises(ValueError, match="No such file"):
        catalog.find(None)
    settings.write_text(f"[models]\ndefault = {json.dumps(str(two / 'b' / 'Fox.safetensors'))}\n")
    assert catalog.find(None).path == two / "b" / "Fox.safetensors"


def test_a_disk_is_no_folder_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marmo.library.scan.MAX_ENTRIES", 3)
    assert MAX_ENTRIES > 3
    for index in range(4):
        (tmp_path / f"{index}.txt").touch()
    with pytest.raises(ValueError, match="more than 3 files"):
        list(candidates([Place("folder", tmp_path)]))
