"""How well a network takes noise away: the same pictures under the same noise at four levels, whenever it is asked.

    trial = Trial(heldout, parametrisation.table, seed=0)
    trial.losses(network, parametrisation)          # four numbers: 1 is a network that knows nothing
    trial.gaussian(train)                           # the same of the best model that is no network

Losses of a training are random numbers, since noise and levels are drawn anew every time; these are not, so two of them
can be compared: of two moments of one run, of two networks, of pictures that were learnt from and others.

Shapes: B pictures, C channels, H W height and width, D = C H W, L levels.
"""

from typing import cast

import torch
from torch import Tensor

from marmo.diffusion.denoiser import Network, Parametrisation
from marmo.diffusion.noise import NoiseTable

LEVELS = 4
AT_ONCE = 256
"""Pictures in one call of the network."""

Factors = tuple[Tensor, Tensor, Tensor]


class Trial:
    """Pictures B C H W in [-1, 1] under noise that stays.

    The levels are the middles of the quarters of the table: little noise first.
    """

    def __init__(self, pictures: Tensor, table: NoiseTable, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.pictures = pictures
        self.noise = torch.randn(LEVELS, *pictures.shape, generator=draw).to(pictures.device)
        times = (2 * torch.arange(LEVELS, dtype=torch.float64) + 1) / (2 * LEVELS) * len(table.sigmas)
        self.sigmas = table.sigma(times)  # L, float64

    @torch.no_grad()
    def losses(self, network: Network, parametrisation: Parametrisation) -> Tensor:
        """The mean squared error of eps at every level.  -> L, float32, on the CPU"""
        return torch.stack([self._loss(network, parametrisation, level) for level in range(LEVELS)])

    def gaussian(self, train: Tensor) -> Tensor:
        """The same of the best denoiser for pictures that had no other structure than mean and covariance.

        Those of the training pictures: Wiener's filter.  What a network knows beyond, it has below these numbers.

        Args:
            train: N C H W in [-1, 1].
        """
        rows = train.flatten(1).double()
        mean = rows.mean(0)
        found = cast(Factors, torch.linalg.svd(rows - mean, full_matrices=False))  # pyright: ignore[reportUnknownMemberType]
        _, lengths, axes = found
        variances = lengths**2 / max(len(rows) - 1, 1)
        x0 = self.pictures.flatten(1).double() - mean
        return torch.stack(
            [
                _wiener(x0, noise.flatten(1).double(), float(sigma), variances, axes)
                for sigma, noise in zip(self.sigmas, self.noise, strict=True)
            ]
        ).float()

    def _loss(self, network: Network, parametrisation: Parametrisation, level: int) -> Tensor:
        parts = zip(torch.split(self.pictures, AT_ONCE), torch.split(self.noise[level], AT_ONCE), strict=True)
        sums = [eps_errors(network, parametrisation, x0, eps, self.sigmas[level].expand(len(x0))) for x0, eps in parts]
        return torch.cat(sums).mean().cpu()


def eps_errors(network: Network, parametrisation: Parametrisation, x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """|eps - eps_theta(x_t, t)|^2, the mean over a picture's numbers; Ho et al. 2020, equation 14.

    Args:
        x0, eps: pictures and noise, B C H W.
        sigma: the noise level of each, B, on the CPU.

    Returns: B, float32.
    """
    assert parametrisation.target == "eps", "this loss is of networks that predict eps"
    row = parametrisation(sigma)
    scale = row.c_in.to(x0.device)[:, None, None, None]
    wide = sigma.float().to(x0.device)[:, None, None, None]
    output = network(scale * (x0 + wide * eps), row.c_noise.to(x0.device))
    return (output.float() - eps).square().flatten(1).mean(1)


def _wiener(x0: Tensor, eps: Tensor, sigma: float, variances: Tensor, axes: Tensor) -> Tensor:
    """The error of eps of a linear filter.  x0 (without its mean) and eps B D, variances R along axes R D."""
    x = x0 + sigma * eps
    seen = (x @ axes.T) * (variances / (variances + sigma**2)) @ axes
    return ((x - seen) / sigma - eps).square().mean()
