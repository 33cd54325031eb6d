"""What a sampler and whoever drives it say to each other."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")

RAW_SIGMA_LIMIT = 1e3
"""Solvers in raw sigma multiply the slope's rounding error by the first sigma: more than this is visible."""


@dataclass(frozen=True, slots=True)
class Query:
    """A sampler's question: what is x0 here?"""

    x: Tensor
    sigma: Tensor
    """No axes, on the CPU."""
    index: int
    """Of the step; a solver of second order asks twice in one."""


class Prediction(NamedTuple):
    """The answer: x0, with its parts where there are any, for the few solvers that use them.  Each B C H W."""

    x0: Tensor
    cond: Tensor | None = None
    uncond: Tensor | None = None
    log_variance: Tensor | None = None


Sampling = Generator[Query, Prediction, Tensor]
Answer = Callable[[Query], Prediction]
Noise = Callable[[Tensor, Tensor], Tensor]
"""(sigma, next sigma) -> standard noise for that step, of the shape of x and on its device."""


class Clock(Protocol):
    """A model's time for a noise level and back, for the one solver that counts in it.  Any shape."""

    def time(self, sigma: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


def walk(sampling: Sampling, answer: Callable[[Query], Generator[T, None, Prediction]]) -> Generator[T, None, Tensor]:
    """Answer a sampler's questions; whatever the answering yields is passed on.  Returns the final x."""
    try:
        query = next(sampling)
        while True:
            query = sampling.send((yield from answer(query)))
    except StopIteration as end:
        return end.value


def drive(sampling: Sampling, answer: Answer) -> Generator[tuple[Query, Prediction], None, Tensor]:
    """Answer a sampler's questions, showing each with its answer; returns the final x."""

    def shown(query: Query) -> Generator[tuple[Query, Prediction], None, Prediction]:
        prediction = answer(query)
        yield query, prediction
        return prediction

    return walk(sampling, shown)


def run(sampling: Sampling, answer: Answer) -> Tensor:
    """Drive a sampler to its end."""
    driven = drive(sampling, answer)
    while True:
        try:
            next(driven)
        except StopIteration as end:
            return end.value


def refuse_capped(name: str, sigmas: Tensor) -> None:
    """`ValueError` for a start at infinite noise, which a solver in raw sigma cannot leave."""
    if sigmas[0] > RAW_SIGMA_LIMIT:
        raise ValueError(f"{name} cannot start at sigma {float(sigmas[0]):g}, above {RAW_SIGMA_LIMIT:g}; use dpmpp_2m")
