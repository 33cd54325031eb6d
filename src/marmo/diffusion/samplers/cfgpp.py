"""CFG++: towards the guided x0, with the noise of the unconditional answer (Chung et al. 2024).

Where a guidance asks no unconditional row, as outside its interval, a step is that of the plain sampler.
"""

import math
from itertools import pairwise

from torch import Tensor

from marmo.diffusion.samplers.contract import Noise, Prediction, Query, Sampling
from marmo.diffusion.samplers.euler import split


def euler_cfg_pp(x: Tensor, sigmas: Tensor, noise: Noise | None = None, eta: float = 0.0) -> Sampling:
    """`euler`, or DDIM, so; with eta 1 Euler ancestral (Chung et al. 2024, algorithm 1)."""
    for index, (s, t) in enumerate(pairwise(sigmas)):
        answer = yield Query(x, s, index)
        down, up = split(s, t, eta)
        x = answer.x0 + (down / s) * (x - _unguided(answer))
        if up > 0:
            assert noise is not None, "a sampler with eta needs noise"
            x = x + up * noise(s, t)
    return x


def dpmpp_2m_cfg_pp(x: Tensor, sigmas: Tensor) -> Sampling:
    """`dpmpp_2m` so, as ComfyUI has it: the line runs from the last unconditional x0 to the guided one."""
    before: Tensor | None = None
    for index, (s, t) in enumerate(pairwise(sigmas)):
        answer = yield Query(x, s, index)
        x = answer.x0 + (t / s) * (x - _unguided(answer))
        if before is not None and t > 0:
            ratio = math.log(sigmas[index - 1] / s) / math.log(s / t)
            x = x + (1 - t / s) / (2 * ratio) * (answer.x0 - before)
        before = _unguided(answer)
    return x


def _unguided(answer: Prediction) -> Tensor:
    return answer.x0 if answer.uncond is None else answer.uncond
