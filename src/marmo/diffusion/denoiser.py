"""What a network's output means: four scalars per noise level turn it into x0, and give its training target.

D(x; sigma) = c_skip x + c_out F(c_in x, c_noise)           (Karras et al. 2022, equation 7)

Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from marmo.diffusion.noise import NoiseTable

Target = Literal["eps", "v", "x0", "flow", "edm"]


FLOW_CLOCK = 1000
"""Times the time of a flow, 0 to 1, is what its network is told, as Stable Diffusion 3 and diffusers have it."""


class Scalars(NamedTuple):
    """One row of the table, at some noise levels: all of the shape of sigma, float32."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


Network = Callable[[Tensor, Tensor], Tensor]
"""(input B C H W, clock B) -> output B C H W."""


@dataclass(frozen=True)
class Parametrisation:
    """A row of the table: what the network predicts, and by which clock it was trained."""

    target: Target
    table: NoiseTable | None = None
    sigma_data: float = 0.5
    """Standard deviation of the data, for `edm` alone."""

    def __call__(self, sigma: Tensor) -> Scalars:
        """sigma of any shape, on the CPU.  Computed in float64: at sigma 1e8 float32 would lose c_skip."""
        return Scalars(*(value.float() for value in self.exact(sigma)))

    def exact(self, sigma: Tensor) -> Scalars:
        """The same in float64, for those who calculate on."""
        s = sigma.double()
        one = s.new_ones(s.shape)
        norm = (1 + s**2).sqrt()
        match self.target:
            case "eps":
                row = 1 / norm, one, -s, self._time(s)
            case "v":
                row = 1 / norm, 1 / norm**2, -s / norm, self._time(s)
            case "x0":
                row = 1 / norm, 0 * one, one, self._time(s)
            case "flow":
                row = 1 / (1 + s), 1 / (1 + s), -s / (1 + s), FLOW_CLOCK * s / (1 + s)
            case "edm":
                d = self.sigma_data
                norm = (s**2 + d**2).sqrt()
                row = 1 / norm, (d / norm) ** 2, s * d / norm, s.log() / 4
        return Scalars(*row)

    def _time(self, sigma: Tensor) -> Tensor:
        assert self.table is not None, f"{self.target} needs a table of noise levels for its clock"
        return self.table.time(sigma)

    def to_x0(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The clean picture that a network's output means.  x, output B C H W, sigma B -> B C H W, float32."""
        row = self(sigma)
        return _wide(row.c_skip, x) * x + _wide(row.c_out, x) * output.float()

    def to_output(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """The network output that means x0, which is also the target of training: the inverse of `to_x0`."""
        row = self(sigma)
        return (x0 - _wide(row.c_skip, x) * x) / _wide(row.c_out, x)


def denoise(network: Network, parametrisation: Parametrisation, x: Tensor, sigma: Tensor) -> Tensor:
    """The clean picture that the network sees in x.  x B C H W, sigma B (on the CPU) -> B C H W, float32."""
    row = parametrisation(sigma)
    output = network(_wide(row.c_in, x) * x, row.c_noise.to(x.device))
    return parametrisation.to_x0(x, output, sigma)


def _wide(scalar: Tensor, like: Tensor) -> Tensor:
    return scalar.to(like.device)[:, None, None, None]
