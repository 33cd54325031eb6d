"""Where random numbers come from: named sources, each with a version, that other programs' pictures can be made with.

Shapes: B pictures, C channels, H W height and width.  A draw's shape is C H W, without the pictures.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from marmo.diffusion.brownian import BrownianTree
from marmo.diffusion.philox import Philox

Path = Callable[[Tensor, Tensor], Tensor]
"""(sigma, next sigma), falling -> the path's increment between them as standard noise.  B C H W, float32."""


class NoiseSource(Protocol):
    """All random numbers of a run, on the CPU."""

    def start(self, shape: Sequence[int]) -> Tensor:
        """The standard noise that a run begins with, drawn once.  C H W -> B C H W, float32."""
        ...

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next standard normal numbers of every picture.  C H W -> B C H W, float32."""
        ...

    def path(self, shape: Sequence[int], sigmas: Tensor) -> Path:
        """A Brownian path of every picture over the noise levels of a run, without its 0."""
        ...


class TorchCpu:
    """`torch-cpu`, version 1: a Mersenne twister per picture, whatever the batch."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def start(self, shape: Sequence[int]) -> Tensor:
        """The next numbers, as `normal`."""
        return self.normal(shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """C H W -> B C H W, float32."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self.generators])

    def path(self, shape: Sequence[int], sigmas: Tensor) -> Path:
        """A tree per picture, with its seed."""
        return _paths(lambda seed: _twister(seed, shape), self.seeds, sigmas)


class PhiloxPerPicture:
    """`philox`, version 1: what an Nvidia card draws, a generator per picture (A1111's source "NV", and "GPU")."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.generators = [Philox(seed) for seed in seeds]

    def start(self, shape: Sequence[int]) -> Tensor:
        """The next numbers, as `normal`."""
        return self.normal(shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """C H W -> B C H W, float32."""
        return torch.stack([generator.normal(shape) for generator in self.generators])

    def path(self, shape: Sequence[int], sigmas: Tensor) -> Path:
        """A tree per picture, with its seed."""
        return _paths(lambda seed: Philox(seed).normal(shape), self.seeds, sigmas)


class Comfy:
    """`comfy`, version 1: one seed for the whole batch, as ComfyUI on an Nvidia card.

    The start comes from a Mersenne twister, the steps' fresh noise from Philox with the same seed.  A picture of a
    batch depends on its place in the batch and on the batch's size.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seed, self.size = seeds[0], len(seeds)
        self.generator = Philox(self.seed)

    def start(self, shape: Sequence[int]) -> Tensor:
        """C H W -> B C H W, float32."""
        return _twister(self.seed, (self.size, *shape))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """C H W -> B C H W, float32."""
        return self.generator.normal((self.size, *shape))

    def path(self, shape: Sequence[int], sigmas: Tensor) -> Path:
        """One tree for all pictures."""
        paths = _paths(lambda seed: _twister(seed, (self.size, *shape)), [self.seed], sigmas)
        return lambda sigma, after: paths(sigma, after)[0]


class Varied:
    """A source whose start lies between that of two seeds; everything else is the first one's.

    strength 0 is the first, 1 the other.
    """

    def __init__(self, source: NoiseSource, other: NoiseSource, strength: float) -> None:
        self.source, self.other, self.strength = source, other, strength
        self.normal, self.path = source.normal, source.path

    def start(self, shape: Sequence[int]) -> Tensor:
        """C H W -> B C H W, float32."""
        return slerp(self.source.start(shape), self.other.start(shape), self.strength)


NOISE_SOURCES: dict[str, Callable[[Sequence[int]], NoiseSource]] = {
    "torch-cpu": TorchCpu,
    "philox": PhiloxPerPicture,
    "comfy": Comfy,
}


def slerp(low: Tensor, high: Tensor, share: float) -> Tensor:
    """Along the great circle from `low` to `high`, as A1111 turns noise: every column is a vector of its own.

    B C H W each -> B C H W.  Pictures whose columns are all but parallel are mixed linearly; A1111 does that the wrong
    way round, and with one seed twice nobody sees it.
    """
    cosine = (_unit(low) * _unit(high)).sum(-2, keepdim=True)  # B C 1 W
    angle = cosine.acos()
    turned = (((1 - share) * angle).sin() * low + (share * angle).sin() * high) / angle.sin()
    parallel = cosine.mean(dim=(1, 2, 3), keepdim=True) > 0.9995
    return torch.where(parallel, low * share + high * (1 - share), turned)


def _unit(noise: Tensor) -> Tensor:
    return noise / noise.square().sum(-2, keepdim=True).sqrt()


def _twister(seed: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _paths(draw: Callable[[int], Tensor], seeds: Sequence[int], sigmas: Tensor) -> Path:
    """A tree for every seed, between the least sigma above 0 and the largest; k-diffusion's signs."""
    low, high = float(sigmas[sigmas > 0].min()), float(sigmas.max())
    trees = [BrownianTree(draw, seed, low, high) for seed in seeds]

    def increment(sigma: Tensor, after: Tensor) -> Tensor:
        fall = torch.stack([tree(float(after), float(sigma)) for tree in trees])
        return -fall / (sigma - after).sqrt()

    return increment
