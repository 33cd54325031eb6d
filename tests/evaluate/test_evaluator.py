"""The bundled evaluator: small, what its card says it is, and as good as its card says."""

import re
from hashlib import sha256

import pytest
import torch

from marmo.data.atlas import drawn_now
from marmo.data.scenes import render, sample
from marmo.evaluate import retrieval
from marmo.evaluate.evaluator import BUNDLED, Evaluator, load_evaluator
from marmo.weights.store import open_file


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return load_evaluator()


def test_it_is_small_and_in_8_bits() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 3_000_000
    infos = open_file(BUNDLED / "model.safetensors").infos
    assert infos["visual.conv1.weight"].dtype is torch.int8 and "visual.conv1.weight_scale" in infos


def test_its_card_names_its_bytes_and_its_sources() -> None:
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    digest = sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()
    assert re.search(r"sha256 of `model.safetensors` \| `(\w+)`", card)[1] == digest
    assert all(word in card for word in ("Twemoji", "CC-BY 4.0", "Noto Emoji", "Fluent Emoji", "seed -1000", "`all`"))


def test_a_picture_fits_its_caption_better_than_another(evaluator: Evaluator) -> None:
    made = [sample(retrieval.TEST_SEED, index, "all") for index in range(12)]
    pictures = torch.stack([render(one.scene, 64) for one in made])
    fits = evaluator.fit(pictures, [one.caption.text for one in made])
    own = fits.diagonal()
    assert (fits.shape, fits.abs().max() <= 1.001) == ((12, 12), True)
    assert own.mean() > fits.mean() + 0.1


@pytest.mark.long
@pytest.mark.parametrize("language", ["en", "zh"])
def test_retrieval_has_not_fallen(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    """One group of the card's five; its worst day is three deviations below the card's mean."""
    monkeypatch.setattr(retrieval, "atlas", drawn_now)
    found = retrieval.retrieval(evaluator, "all", language, groups=1)
    assert min(found.by_picture, found.by_text) > FLOOR


FLOOR = 0.45
