"""Fetching from a stand-in for the hub: what is asked for, what is not, broken connections, and no network at all."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from marmo import catalog
from marmo.library import hub
from marmo.library.hub import HubName, chosen, hub_name
from tests.library.stand_in_hub import COMMIT, StandInHub, serving

TRAP = b"raise SystemExit('a file of the repository was run')"


@pytest.fixture
def repository(stand_in_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A diffusers model with all that repositories carry beside it."""
    folder = tmp_path / "repository"
    for path in stand_in_folder.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(stand_in_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for name in ("pipeline.py", "unet/modeling.py", "safety_checker/model.safetensors", "v1.ckpt", "unet/README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(TRAP)
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n# Fox\n")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (weights.parent / name).write_bytes(weights.read_bytes())
    (folder / "whole.safetensors").write_bytes(TRAP)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving("anna/fox", folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.long
def test_a_model_is_fetched_once_and_nothing_else_of_it(repository: StandInHub, tmp_path: Path):
    card = catalog.find("anna/fox")
    assert card.path == tmp_path / "hub" / "models--anna--fox" / "snapshots" / COMMIT
    assert card.name == "fox@01234567"
    assert repository.fetched() == {
        "model_index.json", "marmo.json", "README.md", "scheduler/scheduler_config.json",
        "text_encoder/config.json", "text_encoder/model.safetensors",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        *(name for name in repository.files if name.startswith("tokenizer/")),
    }  # fmt: skip
    assert {path.suffix for path in card.path.rglob("*.*")} <= {".json", ".safetensors", ".txt", ".md"}
    assert card.licence == "openrail++"
    repository.asked.clear()
    again = [catalog.find(name).path for name in ("anna/fox", "anna/fox@main", f"anna/fox@{COMMIT}")]
    assert again == [card.path] * 3 and repository.asked == []
    listed = {found.name: found for found in catalog.models()}["anna/fox"]
    assert (listed.origin, listed.use, listed.licence) == ("hub", "paint", "openrail++")


def test_a_card_too_long_to_be_one_stays_there():
    """Its size is the hub's word."""
    entries = [SimpleNamespace(path=path, size=size) for path, size in (("a.json", 5), ("README.md", hub.MAX_CARD + 1))]
    assert hub._files(entries) == ["a.json"]
    assert hub._files([SimpleNamespace(path="README.md", size=9), SimpleNamespace(path="folder")]) == ["README.md"]


def test_a_single_file_of_the_hub_has_its_card(stand_in: Path, tmp_path: Path):
    folder = tmp_path / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "fox.safetensors").write_bytes(stand_in.read_bytes())
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert catalog.find(folder / "fox.safetensors").licence == "mit"
    elsewhere = tmp_path / "fox.safetensors"
    elsewhere.write_bytes(stand_in.read_bytes())
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")  # of a folder of many models it says nothing
    assert catalog.find(elsewhere).licence is None


def test_a_path_that_is_missing_may_have_been_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="no file or folder models/fox here, and as a model of the hub"):
        catalog.located("models/fox")


@pytest.mark.long
def test_a_broken_connection_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = os.urandom(24_000_000)  # more than huggingface_hub writes at once
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "big.safetensors").write_bytes(data)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving("anna/big", tmp_path / "repository") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.cut = 15_000_000
        assert hub.fetch(HubName("anna/big")).read_bytes() == data
        ranges = [wanted for method, place, wanted in server.asked if method == "GET" and "resolve" in place]
    assert ranges[0] is None and any(wanted and not wanted.startswith("bytes=0-") for wanted in ranges[1:])


@pytest.mark.long
def test_half_of_a_model_is_no_model(repository: StandInHub):
    path = catalog.located("anna/fox")
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    repository.asked.clear()
    assert catalog.located("anna/fox") == path and (path / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert repository.asked


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("anna/wolf", "anna/wolf was not fetched: "),
        ("anna/fox@old", "anna/fox@old was not fetched: "),
        ("anna/fox:none.safetensors", "holds no none.safetensors; name one of its files: anna/fox:"),
    ],
)
def test_what_the_hub_does_not_have(repository: StandInHub, name: str, reason: str):
    with pytest.raises(ValueError, match=reason) as error:
        catalog.located(name)
    assert "\n" not in str(error.value)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="anna/fox was not fetched: "):
        catalog.located("anna/fox")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"which is not installed; `pip install marmo\[hub\]`"):
        catalog.located("anna/fox")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("anna/fox", HubName("anna/fox")),
        ("anna/fox-1.5@v2", HubName("anna/fox-1.5", "v2")),
        ("anna/fox@refs/pr/1:sub/a b.safetensors", HubName("anna/fox", "refs/pr/1", "sub/a b.safetensors")),
        ("fox", None),
        ("a/b/c", None),
        ("../fox", None),
        ("anna/..", None),
        ("anna/fox@../../x", None),
        ("anna/fox:x.ckpt", None),
        ("anna/fox.safetensors", None),
        ("http://anna/fox", None),
    ],
)
def test_names(text: str, name: HubName | None):
    assert hub_name(text) == name
    assert name is None or hub_name(str(name)) == name


VAE = ["vae/model.safetensors", "vae/config.json"]
FP16 = ["config.json", "model.fp16.safetensors"]
SHARDS = ["model_index.json", "unet/model.safetensors.index.json", "unet/model-00001-of-00001.safetensors"]
SINGLE = ["a.safetensors", "b.safetensors", "x.py", "x.ckpt"]


@pytest.mark.parametrize(
    ("files", "name", "wanted"),
    [
        (["fox.safetensors", "fox.ckpt", "README.md", "sub/x.safetensors"], "o/n", ["fox.safetensors", "README.md"]),
        (SINGLE, "o/n:b.safetensors", ["b.safetensors"]),
        (VAE, "o/n:vae/model.safetensors", VAE),
        ([*FP16, "model.bf16.safetensors"], "o/n", FP16),
        (
            [*SHARDS, "../x.json", "/x.json", "unet/../../x.json", "other/config.json"],
            "o/n",
            SHARDS,
        ),
    ],
)  # fmt: skip
def test_what_is_chosen(files: list[str], name: str, wanted: list[str]):
    known = hub_name(name)
    assert known is not None and chosen(known, files) == wanted


@pytest.mark.parametrize("files", [SINGLE, [], ["x.py"]])
def test_where_nothing_can_be_chosen(files: list[str]):
    with pytest.raises(ValueError, match=r"o/n is no diffusers model; (name one of its files: o/n:a|no safetensors)"):
        chosen(HubName("o/n"), files)


LOCAL = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from marmo.cli.main import main
main(["generate", "a {red|blue} fox", "--model", sys.argv[1], "--width", "64", "--height", "64", "--steps", "1",
      "--output", sys.argv[2], "--name", "fox"])
"""


@pytest.mark.long
def test_with_a_local_file_nothing_asks_the_network(stand_in: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, str(stand_in), str(tmp_path)],
        capture_output=True, text=True, timeout=120, env=dict(os.environ),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/fox.png\n"), done.stderr
    assert hub.hub_name(str(stand_in)) is None
