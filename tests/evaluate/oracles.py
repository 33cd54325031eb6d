"""Oracles and painters whose mistakes are known."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from marmo.data.atlas import drawn_now
from marmo.data.compose import compose
from marmo.data.scene import Scene
from marmo.evaluate.found import Found, Oracle, truth
from marmo.evaluate.questions import Question

CPU = torch.device("cpu")
FAR = 0.03
"""Mean square distance of thumbnails above which a picture is none of those that are known."""


@cache
def rendered(scene: Scene, size: int = 64) -> Image.Image:
    return Image.fromarray(compose([scene], size, drawn_now(CPU))[0].permute(1, 2, 0).numpy())


def perfect_oracle(questions: Iterable[Question]) -> Oracle:
    """Knows the scenes of these prompts by their thumbnails, and sees nothing in any other picture."""
    scenes = list({question.cluster: question.prompt.scene for question in questions}.values())
    known = _thumbnails(compose(scenes, 128, drawn_now(CPU)))

    def see(pictures: Tensor) -> list[list[Found]]:
        apart = (_thumbnails(pictures)[:, None] - known).square().mean(-1)
        return [truth(scenes[int(row.argmin())]) if row.min() < FAR else [] for row in apart]

    return see


def colour_blind(oracle: Oracle) -> Oracle:
    """Takes every colour for grey."""
    return lambda pictures: [[replace(thing, colour="grey") for thing in found] for found in oracle(pictures)]


class Renders:
    """A painter that paints real renders and counts them."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.scenes = {question.text: question.prompt.scene for question in questions}
        self.painted = 0

    def __call__(self, texts: Sequence[str], seeds: Sequence[int]) -> Iterator[Image.Image]:
        for text, _ in zip(texts, seeds, strict=True):
            self.painted += 1
            yield rendered(self.scenes[text])


def _thumbnails(pictures: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pictures.float() / 255, 8).flatten(1)
