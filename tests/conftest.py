"""What many tests share: a stand-in for a model, and a cache that is not the user's."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # tests of what needs no torch shall not wait for it
    from marmo.pipelines.latent import LatentDiffusion


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache, settings and models are neither read nor written; subprocesses inherit this."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARMO_CACHE", str(folder))
        patch.setenv("MARMO_SETTINGS", str(folder / "settings" / "settings.toml"))
        patch.setenv("MARMO_MODELS", str(folder / "models"))
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        yield folder


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1 of toy size with random weights, as a single float16 file; tests only read it."""
    from benchmarks.checkpoint import random_checkpoint

    return random_checkpoint(tmp_path_factory.mktemp("stand-in") / "stand-in.safetensors")


@pytest.fixture(scope="session")
def stand_in_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a diffusers folder; tests only read it."""
    from benchmarks.checkpoint import random_checkpoint

    return random_checkpoint(tmp_path_factory.mktemp("stand-in") / "folder")


@pytest.fixture(scope="session")
def model(stand_in: Path) -> "LatentDiffusion":
    """The stand-in, loaded in float32 on the CPU; tests leave it as it is."""
    import marmo

    return marmo.load(stand_in, device="cpu", dtype="float32")
