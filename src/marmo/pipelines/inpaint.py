"""What a walk keeps of a picture while it paints the rest: masking, in latents.

The kept part of every prediction is the picture's own, so that the walk ends there (k-diffusion's way, as A1111 and
ComfyUI go it).  With diffusers' start the network sees the kept part as diffusers shows it: under the noise of the
start at every level, whatever the sampler adds.

With grey levels as shares of strength (Levin and Fried 2023, Differential Diffusion) a latent is kept until the walk
has come to its share, and then painted to the end.

Shapes: B pictures, C latent channels, H W height and width of the latents.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marmo.diffusion.samplers import Prediction, Query
from marmo.pipelines.canvas import HALF


@dataclass(frozen=True, eq=False)
class Kept:
    """The part of one walk's latents that is not painted."""

    known: Tensor
    """The picture's latents.  B C H W"""
    share: Tensor
    """How free every latent is.  1 1 H W, 0 to 1"""
    soft: bool
    """Whether a share is of the strength, or from a half on all"""
    total: int
    """Steps of the walk"""
    noise: Tensor | None = None
    """Of the start, to be shown with the kept part; none shows it as the sampler leaves it.  B C H W"""
    alone: float = float("inf")
    """From this noise level on nothing but noise is shown"""

    def shown(self, query: Query) -> Query:
        """The question as the network shall see it."""
        if self.noise is None or float(query.sigma) >= self.alone:
            return query
        known = self.known + self.noise * query.sigma
        return replace(query, x=torch.where(self.free(query.index), query.x, known))

    def keep(self, query: Query, found: Prediction) -> Prediction:
        """The answer to a question, its kept part the picture's own."""
        free = self.free(query.index)
        x0, cond, uncond = (None if part is None else torch.where(free, part, self.known) for part in found[:3])
        assert x0 is not None
        return Prediction(x0, cond, uncond, found.log_variance)

    def free(self, index: int) -> Tensor:
        """What is painted in a step.  1 1 H W, bool."""
        least = 1 - index / self.total if self.soft else HALF
        return self.share >= least - 1e-6
