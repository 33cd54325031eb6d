"""Feature spaces: a network, the file it came from, and the way pictures are brought to it.

    space = open_space(Path("pt_inception-2015-12-05.safetensors"), "clean")
    generated = features(space, open_pictures(Path("out")))
    print(compare("FD", distance, generated, features(space, open_pictures(Path("real")))))
    # FD 12.34, 50000 pictures against 50000, in inception-2015 (6726825d) clean 299

A number that is measured in features means nothing without all three, so `Features` and `Measured` carry them, and
features of two spaces cannot be compared.  docs/evaluation.md says which file and which rule give which published
number.

Shapes: B batch, N pictures, S side of the network's pictures, D width of the features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import torch
from torch import Tensor

from marmo.data.cache import TensorCache
from marmo.evaluate.pictures import Picture, PictureSet
from marmo.evaluate.resize import RULES, RuleName

BATCH = 32

Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Space:
    """Which space a feature lives in.  Two numbers are comparable if their spaces are equal."""

    network: str
    sha256: str
    """Of the file with its weights; of several files, of their hashes in order."""
    resize: str
    """The rule and the side, such as "clean 299"."""
    width: int

    def __str__(self) -> str:
        return f"{self.network} ({self.sha256[:8]}) {self.resize}"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to what a network sees.  Mean and deviation are of colours from 0 to 255."""

    rule: RuleName
    side: int
    mean: Colour
    std: Colour

    def __call__(self, picture: Tensor) -> Tensor:
        """uint8 3 H W -> float32 3 S S."""
        x = RULES[self.rule](picture, self.side)
        return (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]

    def __str__(self) -> str:
        return f"{self.rule} {self.side}"


class FeatureSpace:
    """Pictures to features.

    Args:
        prepare: a picture, uint8 3 H W -> what the network takes.
        network: a batch of that -> B D.
    """

    def __init__(
        self,
        identity: Space,
        prepare: Callable[[Tensor], Tensor],
        network: Callable[[Tensor], Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        self.identity, self.prepare, self.network, self.device = identity, prepare, network, device

    @torch.inference_mode()
    def __call__(self, pictures: Tensor | Sequence[Tensor]) -> Tensor:
        """Pictures, uint8 B 3 H W or B times 3 H W of any sizes -> B D, float32, on the CPU."""
        batch = torch.stack([self.prepare(picture.cpu()) for picture in pictures])
        # By default cuDNN convolves with ten bits of mantissa.
        with torch.backends.cudnn.flags(torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False):
            vectors = self.network(batch.to(self.device)).float().cpu()
        assert vectors.shape == (len(batch), self.identity.width), vectors.shape
        return vectors


@dataclass(frozen=True, eq=False)
class Features:
    """Pictures as vectors, and the space that these are of."""

    space: Space
    vectors: Tensor
    """N D, float32"""

    def __len__(self) -> int:
        return len(self.vectors)


T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """A number, or an estimate with its interval, and what it rests on: without that it cannot be printed."""

    metric: str
    value: T
    space: Space
    n: int
    """Pictures that were measured."""
    reference: int | None = None
    """Pictures that they were held against."""
    seed: int | None = None
    """Of the numbers drawn on the way, if any were."""

    def __str__(self) -> str:
        value = f"{self.value:.5g}" if isinstance(self.value, float) else str(self.value)
        against = "" if self.reference is None else f" against {self.reference}"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.metric} {value}, {self.n} pictures{against}, in {self.space}{seed}"


def features(
    space: FeatureSpace, pictures: Iterable[Picture], batch_size: int = BATCH, cache: TensorCache | None = None
) -> Features:
    """Pictures as vectors of a space, in their order.

    Args:
        cache: where the features of whole collections are kept; only a `PictureSet` has a digest to find them by.
            What is found there needs no pass over the pictures, so their `defects` stay unknown.
    """
    if cache is None or not isinstance(pictures, PictureSet):
        return Features(space.identity, _vectors(space, pictures, batch_size))
    origin = {"pictures": pictures.digest(), **vars(space.identity)}
    entry = cache.get(origin, lambda: {"vectors": _vectors(space, pictures, batch_size)})
    return Features(space.identity, entry["vectors"])


def compare(
    metric: str,
    distance: Callable[[Tensor, Tensor], T],
    measured: Features,
    reference: Features,
    seed: int | None = None,
) -> Measured[T]:
    """A distance of two sets of pictures, with its space.

    Args:
        distance: features N D and M D -> whatever it finds.

    Raises `ValueError` for features of two spaces.
    """
    if measured.space != reference.space:
        raise ValueError(
            f"features in {measured.space} and in {reference.space} cannot be compared; measure both in one space"
        )
    value = distance(measured.vectors, reference.vectors)
    return Measured(metric, value, measured.space, len(measured), len(reference), seed)


def _vectors(space: FeatureSpace, pictures: Iterable[Picture], batch_size: int) -> Tensor:
    parts = [space([picture.pixels for picture in batch]) for batch in _batches(pictures, batch_size)]
    if not parts:
        raise ValueError("there are no pictures to measure: none of them could be read")
    return torch.cat(parts)


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    source = iter(pictures)
    while batch := list(islice(source, size)):
        yield batch
