"""What `marmo evaluate model --goals` measures of a model beside its pictures: autoencoder, own CLIP, speed."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from marmo.cli.painter import reconstruction
from marmo.data.atlas import drawn_now
from marmo.data.captions import Language
from marmo.data.corpus import corpus
from marmo.data.selection import Selection
from marmo.evaluate.evaluator import load_evaluator
from marmo.evaluate.found import Oracle
from marmo.evaluate.goals import Beside, Reached, reached
from marmo.evaluate.judging import Oracles
from marmo.evaluate.reconstruction import Loss, losses
from marmo.evaluate.retrieval import LANGUAGES, retrieval
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Outcome
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest

SCENES = 512
"""That go through the autoencoder."""
WARM = 5
"""Pictures whose times are taken."""


def goals(
    model: LatentDiffusion,
    settings: ImageRequest,
    outcome: Outcome,
    oracles: Oracles,
    concepts: Sequence[str],
    own_clip: Path | None = None,
) -> Sequence[Reached]:
    """The table of what Marmo's own model must reach.

    Args:
        concepts: those that were asked for; none means all.
        own_clip: where the CLIP lies that the model's text encoder comes from.
    """
    selection = Selection(frozenset(concepts) or None)
    loss = _autoencoder(model, settings, oracles[outcome.oracle], selection)
    beside = Beside(loss, _retrieval(own_clip, selection), _warm_seconds(model, settings))
    return reached(outcome, len(concepts) or len(corpus().concepts), beside)


def _autoencoder(model: LatentDiffusion, settings: ImageRequest, oracle: Oracle, selection: Selection) -> Loss:
    """Of two-object scenes of the size that the model paints, as its autoencoder runs."""
    side = model.resolve(settings).height
    assert side is not None, "the request is not resolved"
    change, sprites = reconstruction(model), drawn_now(torch.device("cpu"))  # all of the atlas is not needed
    known = selection.concepts
    (loss,) = losses(change, oracle, ("pair",), count=SCENES, size=side, concepts=known, sprites=sprites)
    return loss


def _retrieval(path: Path | None, selection: Selection) -> Mapping[Language, Estimate]:
    if path is None:
        return {}
    clip = load_evaluator(path)
    return {language: retrieval(clip, "train", language, selection=selection).worse for language in LANGUAGES}


def _warm_seconds(model: LatentDiffusion, settings: ImageRequest) -> Estimate:
    """The median time of one picture with these settings, all of it loaded, between the shortest and the longest."""
    asked = settings.model_copy(update={"prompt": "a red fox", "seed": 0, "num_images": 1})
    model.generate(asked)
    times = list[float]()
    for _ in range(WARM):
        start = time.perf_counter()
        model.generate(asked)
        times.append(time.perf_counter() - start)
    return Estimate(statistics.median(times), min(times), max(times), WARM)
