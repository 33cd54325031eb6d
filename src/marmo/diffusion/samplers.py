"""Samplers: plain generators that only ask.

A sampler yields `Query(x, sigma, index)`, is sent a `Prediction` and returns the final x.  It calls no network, draws
no random number of its own and reports to no one; whoever drives it does.  `run` drives one, a server many at once.

Everything is in x = x0 + sigma * noise.  Solvers are written with x0 and the ratio of two sigmas (exponential form),
which stays finite from any start; Heun's published form is in raw sigma and refuses a start at the cap.

Shapes: x B C H W, float32; sigmas S + 1, on the CPU, falling, the last one 0.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

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
"""(sigma, next sigma) -> fresh standard noise for that step, of the shape of x and on its device."""


def euler(x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 0.0) -> Sampling:
    """Euler's method in sigma, which is DDIM; with eta 1 the DDPM posterior, which is Euler ancestral.

    Song et al. 2020, equation 16: eta is the share of the posterior's fresh noise.
    """
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        down, up = _split(s, t, eta)
        x = x0 + (down / s) * (x - x0)
        if up > 0:
            x = x + up * noise(s, t)
    return x


def heun(x: Tensor, sigmas: Tensor) -> Sampling:
    """Heun's method in sigma (Karras et al. 2022, algorithm 1), in raw form."""
    if sigmas[0] > RAW_SIGMA_LIMIT:
        raise ValueError(f"heun cannot start at sigma {float(sigmas[0]):g}, above {RAW_SIGMA_LIMIT:g}; use dpmpp_2m")
    for index, (s, t) in enumerate(pairwise(sigmas)):
        slope = (x - (yield Query(x, s, index)).x0) / s
        guess = x + (t - s) * slope
        if t > 0:
            slope = (slope + (guess - (yield Query(guess, t, index)).x0) / t) / 2
        x = x + (t - s) * slope
    return x


def dpmpp_2m(x: Tensor, sigmas: Tensor) -> Sampling:
    """DPM-Solver++(2M): two steps of x0 (Lu et al. 2022, algorithm 2); the last step is of first order."""
    before: Tensor | None = None
    for index, (s, t) in enumerate(pairwise(sigmas)):
        x0 = (yield Query(x, s, index)).x0
        target = x0
        if before is not None and t > 0:
            ratio = torch.log(sigmas[index - 1] / s) / torch.log(s / t)
            target = x0 + (x0 - before) / (2 * ratio)
        x = target + (t / s) * (x - target)
        before = x0
    return x


def sampling(name: str, x: Tensor, sigmas: Tensor, noise: Noise, eta: float | None) -> Sampling:
    """The named sampler over these noise levels; `eta` for the ones that add fresh noise."""
    match name:
        case "euler":
            return euler(x, sigmas, noise)
        case "euler_ancestral" | "ddim" | "ddpm":
            assert eta is not None, f"{name} needs an eta; the request's resolve() fills it in"
            return euler(x, sigmas, noise, eta)
        case "heun":
            return heun(x, sigmas)
        case "dpmpp_2m":
            return dpmpp_2m(x, sigmas)
        case _:
            raise ValueError(f"there is no sampler {name!r}")


def drive(sampling: Sampling, answer: Answer) -> Generator[tuple[Query, Prediction], None, Tensor]:
    """Answer a sampler's questions, showing each with its answer; returns the final x."""
    try:
        query = next(sampling)
        while True:
            prediction = answer(query)
            yield query, prediction
            query = sampling.send(prediction)
    except StopIteration as end:
        return end.value


def run(sampling: Sampling, answer: Answer) -> Tensor:
    """Drive a sampler to its end."""
    driven = drive(sampling, answer)
    while True:
        try:
            next(driven)
        except StopIteration as end:
            return end.value


def _split(s: Tensor, t: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The deterministic and the fresh part of t: down^2 + up^2 = t^2 (Song et al. 2020, equation 16).

    In float64, because float32 loses `down` in a long step and digits of `up` in a short one.
    """
    s64, t64 = s.double(), t.double()
    up = torch.minimum(t64, eta * t64 * (1 - (t64 / s64) ** 2).sqrt())
    return (t64**2 - up**2).sqrt().to(t), up.to(t)
