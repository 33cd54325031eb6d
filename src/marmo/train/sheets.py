"""A look at what a denoiser in training paints: the same texts and the same noise every time.

Shapes: B pictures, C channels, H W height and width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from marmo.diffusion import samplers, schedules, sources
from marmo.diffusion.denoiser import Network, Parametrisation, denoise
from marmo.diffusion.guidance import ClassifierFree
from marmo.diffusion.noise import NoiseTable

SCHEDULE = "trailing"
RESCALE = 0.7
"""Lin et al. 2023, section 3.4: strong guidance would burn the picture where the noise begins at infinity."""


@torch.no_grad()
def painted(
    cond: Network,
    uncond: Network,
    parametrisation: Parametrisation,
    table: NoiseTable,
    shape: Sequence[int],
    scale: float,
    steps: int,
    seeds: Sequence[int],
    device: torch.device,
) -> Tensor:
    """What the network makes of noise, under classifier-free guidance.  -> B C H W, float32

    Args:
        cond, uncond: the network with its texts, and with none.
        shape: C H W.
        seeds: one for each picture.
    """
    sigmas = schedules.schedule(SCHEDULE, table, steps)
    x = sigmas[0] * sources.TorchCpu(seeds).start(shape).to(device)
    guidance: ClassifierFree[Network] = ClassifierFree(cond, uncond, scale, parametrisation, RESCALE)

    def answer(query: samplers.Query) -> samplers.Prediction:
        sigma = query.sigma.expand(len(query.x))
        networks = guidance.rows(query.index, float(query.sigma))
        return guidance.combine(query, [denoise(network, parametrisation, query.x, sigma) for network in networks])

    return samplers.run(samplers.dpmpp_2m(x, sigmas), answer)
