"""A network without conditions as the answer to a sampler's questions.

Shapes: B batch, C channels, H W height and width.
"""

from marmo.diffusion.denoiser import Network, Parametrisation, denoise
from marmo.diffusion.samplers.contract import Answer, Prediction, Query


def seen(network: Network, parametrisation: Parametrisation, bound: float | None) -> Answer:
    """What a network believes the picture to be, for any sampler that asks.

    Args:
        bound: what x0 is clipped to, as in Ho et al.'s program; `None` leaves it.
    """

    def answer(query: Query) -> Prediction:
        x0 = denoise(network, parametrisation, query.x, query.sigma.expand(len(query.x)))
        return Prediction(x0 if bound is None else x0.clamp(-bound, bound))

    return answer
