"""What the instrument itself can do: the ceiling that no model exceeds, and the floor that nothing falls below.

Ceiling: real renders of the very scenes that the prompts describe, as they are, blurred, noisy, and sent through a
codec.  An oracle that is wrong here is wrong about a model's pictures too.

Floor: pictures held against the records of other prompts, blobs, and noise.  What scores here scores for nothing.

Every picture here is also seen by a perfect oracle, which knows what it shows.  On the floor it says what chance is:
how often the picture of one prompt happens to answer another.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from marmo.data.atlas import drawn_now
from marmo.data.compose import compose
from marmo.evaluate import disturb
from marmo.evaluate.found import truth
from marmo.evaluate.gallery import Answer
from marmo.evaluate.geneval import GENEVAL, Rules
from marmo.evaluate.judging import Mark
from marmo.evaluate.pictures import as_pixels
from marmo.evaluate.questions import Question

PERFECT = "perfect"
"""The name of an oracle that knows what a picture shows."""

Change = Callable[[Tensor], Tensor]
"""Pictures to pictures, uint8 B 3 H W."""

BLUR = 1.0
"""Standard deviation, in pixels of a picture 128 wide."""
NOISE = 12.0
"""Standard deviation, in levels of 255."""
QUALITY = 20
"""Of the JPEG that stands for an autoencoder where none is given."""


def jpeg(pictures: Tensor, quality: int = QUALITY) -> Tensor:
    """Through a JPEG file and back."""
    return torch.stack([_through_jpeg(picture, quality) for picture in pictures])


def blurred(pictures: Tensor) -> Tensor:
    """With a Gaussian."""
    pixels = disturb.blurred(pictures.float() / 127.5 - 1, BLUR * pictures.shape[-1] / 128)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte()


def noisy(pictures: Tensor) -> Tensor:
    """With Gaussian noise, which is a function of the pictures."""
    draw = torch.Generator().manual_seed(int(pictures.sum()))
    return (pictures + NOISE * torch.randn(pictures.shape, generator=draw)).round().clamp(0, 255).byte()


def changes(reconstruct: Change = jpeg) -> dict[str, Change]:
    """What befalls real renders."""
    return {"real renders": lambda pictures: pictures, "blurred": blurred, "noisy": noisy, "reconstructed": reconstruct}


def once(questions: Iterable[Question]) -> list[Question]:
    """One question for each prompt."""
    return list({question.cluster: question for question in reversed(list(questions))}.values())[::-1]


def renders(questions: Sequence[Question], size: int, change: Change) -> list[Answer]:
    """Right answers, drawn from the scenes of the prompts, `size` pixels a side."""
    return [Answer(question, partial(_render, question, size, change)) for question in questions]


def blobs(questions: Sequence[Question], size: int) -> list[Answer]:
    """Soft coloured spots where pictures should be: what an untrained model paints."""
    return [
        Answer(question, partial(_spots, number, size, max(2, size // 16))) for number, question in enumerate(questions)
    ]


def noise(questions: Sequence[Question], size: int) -> list[Answer]:
    """Noise in every pixel."""
    return [Answer(question, partial(_spots, number, size, size)) for number, question in enumerate(questions)]


def shuffled(marks: Sequence[Mark], rules: Rules = GENEVAL) -> list[Mark]:
    """Every picture held against the prompt that is half a turn further among those of its part and tag.

    The perfect oracle sees in each what its own prompt says.
    """
    known = [mark.seen_as(PERFECT, truth(mark.question.prompt.scene)) for mark in marks]
    return [mark.against(other.prompt.record, rules) for mark, other in _turned(known)]


def _turned(marks: Sequence[Mark]) -> Iterator[tuple[Mark, Question]]:
    groups: Mapping[tuple[str, str], list[Mark]] = defaultdict(list)
    for mark in marks:
        groups[mark.question.part, mark.question.tag].append(mark)
    for group in groups.values():
        asked = once(mark.question for mark in group)
        if len(asked) == 1:
            continue  # there is no other prompt
        places = {question.cluster: place for place, question in enumerate(asked)}
        for mark in group:
            yield mark, asked[(places[mark.question.cluster] + len(asked) // 2) % len(asked)]


def _render(question: Question, size: int, change: Change) -> Image.Image:
    return _picture(change(compose([question.prompt.scene], size, drawn_now(torch.device("cpu"))))[0])


def _spots(number: int, size: int, cells: int) -> Image.Image:
    """Random colours on a grid of `cells` a side, smoothly enlarged."""
    draw = torch.Generator().manual_seed(number)
    grid = torch.rand(1, 3, cells, cells, generator=draw)
    return _picture((F.interpolate(grid, size=(size, size), mode="bicubic").clamp(0, 1) * 255).byte()[0])


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    stream = BytesIO()
    _picture(picture).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as image:
        return as_pixels(image)
