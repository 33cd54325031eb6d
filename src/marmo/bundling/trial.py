"""A short trial of a bundled model: a few fixed prompts in both languages, judged by the oracle, with floors.

What was measured when the model was bundled stands in its notes, less a margin; CI asks the same questions again.  A
margin is needed because arithmetic differs from machine to machine, and a picture on the edge of right may tip over.

Shapes: B pictures, H W height and width.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from PIL import Image
from torch import Tensor

from marmo import catalog
from marmo.data.selection import EVERYTHING, Selection
from marmo.evaluate.fidelity import psnr
from marmo.evaluate.gallery import Answer
from marmo.evaluate.judging import marked
from marmo.evaluate.oracle import load_oracle
from marmo.evaluate.pictures import as_pixels
from marmo.evaluate.questions import Question, questions
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest
from marmo.weights.checkpoint import Checkpoint

KEY = "marmo.floors"
"""Of a model's notes."""
PER_TAG = 3
RIGHT_MARGIN = 0.125
"""Of the share of right pictures: three of 24."""
PSNR_MARGIN = 3.0  # decibels


@dataclass(frozen=True)
class Floors:
    """What a bundled model must reach."""

    right: float
    """Share of the trial's pictures that show what was asked for."""
    psnr: float
    """Mean over the trial, in decibels, of pictures from 8 bits against those from float32."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Floors":
        """Those in a model's notes; `ValueError` where there are none."""
        try:
            return cls(**{name: float(value) for name, value in json.loads(checkpoint.metadata[KEY]).items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{checkpoint.path} carries no {KEY} that can be read: {error!r}") from None

    def note(self) -> str:
        """As the notes hold them."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Tried:
    """What a trial gave."""

    questions: Sequence[Question]
    pictures: Sequence[Image.Image]
    """From 8 bits."""
    right: float
    """Share of them."""
    decibels: Sequence[float]
    """Of each against the one from float32."""

    @property
    def floors(self) -> Floors:
        """What it must reach from now on."""
        return Floors(
            right=round(max(0.0, self.right - RIGHT_MARGIN), 4),
            psnr=round(mean(self.decibels) - PSNR_MARGIN, 2),
        )

    def __str__(self) -> str:
        likeness = f"8 bits against float32: mean {mean(self.decibels):.1f} dB, worst {min(self.decibels):.1f} dB"
        return f"{likeness}; {self.right:.0%} of {len(self.questions)} pictures right"


def tried(original: Path, small: Path, device: str) -> Tried:
    """Paints the trial with a model in float32 and in 8 bits, and judges the latter."""
    first, second = (catalog.load(path, device, "float32") for path in (original, small))
    trial = asked(second.card.concepts)
    wanted = requests(second, trial)
    original_pictures, painted = (pictures(model, wanted) for model in (first, second))
    return Tried(
        questions=trial,
        pictures=painted,
        right=share_right(trial, painted),
        decibels=[float(value) for value in decibels(painted, original_pictures)],
    )


def asked(concepts: Sequence[str]) -> list[Question]:
    """24 questions: three prompts for each tag in both languages, each with one seed.

    Args:
        concepts: what the model knows; empty for all.
    """
    selection = Selection(frozenset(concepts)) if concepts else EVERYTHING
    return questions(("seen",), PER_TAG, seeds=1, selection=selection)


def requests(model: LatentDiffusion, trial: Sequence[Question]) -> list[ImageRequest]:
    """One for each question, resolved with the model's own defaults."""
    return [model.resolve(ImageRequest(prompt=question.text, seed=question.seed)) for question in trial]


def pictures(model: LatentDiffusion, wanted: Sequence[ImageRequest]) -> list[Image.Image]:
    """One for each request."""
    return [model.generate(request).images[0] for request in wanted]


def share_right(trial: Sequence[Question], painted: Sequence[Image.Image]) -> float:
    """Of the pictures that show what was asked for, by the first oracle."""
    answers = [
        Answer(question, lambda picture=picture: picture) for question, picture in zip(trial, painted, strict=True)
    ]
    marks = [mark for mark in marked(answers, {"oracle": load_oracle()}) if mark is not None]
    return sum(mark.is_right("oracle") for mark in marks) / len(trial)


def decibels(painted: Sequence[Image.Image], originals: Sequence[Image.Image]) -> Tensor:
    """PSNR of each picture against its original; equal ones count as 100 dB.  B"""
    return psnr(_pixels(painted), _pixels(originals)).clamp(max=100)


def _pixels(images: Sequence[Image.Image]) -> Tensor:
    """uint8 B 3 H W"""
    return torch.stack([as_pixels(image) for image in images])
