"""Tasks before a batch of this process, for tests of what is painted side by side."""

import math
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from marmo.request import Guidance, Hires, ImageRequest, Variation
from marmo.serve.batching import Batch
from marmo.serve.contract import Failed, Finished, Stopped, Task
from marmo.serve.stock import Stock


class Desk:
    """A batch, and what it told."""

    def __init__(self, stock: Stock) -> None:
        self.told: list[object] = []
        self.batch = Batch(stock, self.told.append)

    def add(self, job: str, request: ImageRequest, **fields: object) -> None:
        self.batch.add(Task(job=job, attempt=1, request=request, **fields))

    def work(self) -> "Desk":
        while len(self.batch):
            self.batch.work()
        return self

    def of(self, job: str, kind: type) -> list:
        return [report for report in self.told if isinstance(report, kind) and report.job == job]

    def pictures(self, job: str) -> Sequence[bytes]:
        assert not self.of(job, Failed), self.of(job, Failed)
        (end,) = self.of(job, Finished)
        return end.pictures

    def end(self, job: str) -> object:
        (end,) = self.of(job, Finished | Failed | Stopped)
        return end


def psnr(left: bytes, right: bytes) -> float:
    """Between two picture files, in decibels."""
    a, b = (np.asarray(Image.open(BytesIO(data)), dtype=float) for data in (left, right))
    error = ((a - b) ** 2).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def pixels(data: bytes) -> bytes:
    return Image.open(BytesIO(data)).tobytes()


def png(colour: str, size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture of 64 x 48 that is black but for its upper left, up to this size."""
    picture, stream = Image.new("RGB", (64, 48)), BytesIO()
    picture.paste(colour, (0, 0, *size))
    picture.save(stream, "PNG")
    return stream.getvalue()


KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "another sampler": {"sampler": "heun", "steps": 4},
    "fresh noise": {"sampler": "euler_ancestral", "steps": 5},
    "a Brownian path": {"sampler": "dpmpp_2m_sde"},
    "unguided": {"guidance_scale": 1.0},
    "guided in an interval": {"guidance": Guidance(high_sigma=5.0)},
    "several pictures": {"num_images": 3},
    "a longer prompt": {"prompt": "fox " * 100},
    "two prompts": {"prompt": "a fox AND a bear"},
    "a prompt that changes": {"prompt": "a [fox:bear:0.5]", "steps": 4},
    "another size": {"width": 48, "height": 64},
    "a variation": {"variation": Variation(seed=3, strength=0.5)},
    "another noise": {"noise_source": "philox"},
    "a seamless texture": {"tiling": "both"},
    "a second pass": {"width": 32, "height": 32, "hires": Hires(scale=2, steps=2)},
    "a part of a picture": {"init_image": png("red"), "mask": png("white", (32, 48)), "strength": 0.8},
}
"""What a request may ask for, beside what `resolve` in test_batching.py says of all."""
