"""A trained folder that is a stand-in, and the bundled model that is made of it."""

import json
from pathlib import Path

import pytest

from benchmarks.checkpoint import random_checkpoint
from marmo.bundling.__main__ import Bundle
from marmo.data.selection import listed
from tests.bundling.runs import write_run

NOISE = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
DEFAULTS = {"width": 32, "height": 32, "steps": 2, "guidance": {"rescale": 0.5, "high_sigma": 50}}
ESTIMATE = {"value": 0.81, "low": 0.7, "high": 0.9, "n": 120}
SCORE = {"part": "seen", "tag": "colors", "language": "both", "oracle": "oracle"}
GOAL = {"name": "colour right", "unit": "share", "floor": 0.85, "goal": 0.97, "measured": ESTIMATE, "verdict": "below"}
GAP = {"part": "heldout_colour", "tag": "colors", "against": "seen"}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for a trained folder, with a list of what it knows."""
    folder = random_checkpoint(tmp_path_factory.mktemp("trained") / "model", scheduler=NOISE)
    (folder / "concepts.txt").write_text("\n".join(listed(12)))
    return folder


@pytest.fixture(scope="session")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundling")
    (folder / "scores.json").write_text(
        json.dumps(
            {"scores": [SCORE | ESTIMATE], "heldout_gaps": [GAP | ESTIMATE], "language_gaps": [], "goals": [GOAL]}
        )
    )
    (folder / "made-by.txt").write_text("marmo train latent cpu --seed 3\n")
    (folder / "defaults.json").write_text(json.dumps(DEFAULTS))
    (folder / "models").mkdir()
    made = Bundle(
        model=trained,
        output=folder / "models" / "pebble",
        run=write_run(folder / "latent"),
        scores=folder / "scores.json",
        commands=folder / "made-by.txt",
        defaults=folder / "defaults.json",
        hardware="an abacus",
    )
    made.bundle()
    return made
