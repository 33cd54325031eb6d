"""Between captioned pictures and what a latent denoiser is given: encoding, drawing, examining.

Shapes: B pictures, S side of a picture, Z latent channels, H W height and width of the latents, T tokens, D width of
the text encoder's states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marmo.data.cache import network_hash
from marmo.data.latents import Draw, RowSource, drawn
from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.training import Lesson, evenly, flow_levels, lesson, levels, middling
from marmo.models.vae import Moments
from marmo.train.latent_parts import Parts

SHARES = (0.125, 0.375, 0.625, 0.875)
"""Of the noise levels, from little to much: where a network is examined."""

Told = tuple[Lesson, Tensor]
"""A lesson and its texts, B T ids or B T D states."""
Answer = Callable[[Lesson, Tensor], Tensor]
"""A lesson and its texts -> the network's output B Z H W."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """Everything between pictures with captions and a network.

    Args:
        reads_along: whether the text encoder learns, and so is not asked here.
        shift: of a flow's levels.
        spread: of logit-normal shares of the noise levels; they come evenly without one.
        dtype: in which the states of a frozen text encoder are kept.
    """

    parts: Parts
    parametrisation: Parametrisation
    reads_along: bool
    shift: float
    spread: float | None
    device: torch.device
    dtype: torch.dtype

    def encode(self, pixels: Tensor) -> Moments:
        """B 3 S S in [-1, 1] -> B Z H W, on the CPU."""
        moments = self.parts.moments(pixels.to(self.device))
        return Moments(moments.mean.cpu(), moments.logvar.cpu())

    def read(self, captions: Sequence[str]) -> Tensor:
        """B T ids, or the B T D states of a text encoder that does not learn; on the CPU."""
        ids = self.parts.ids(captions)
        if self.reads_along:
            return ids
        return self.parts.text(ids.to(self.device), self.parts.skip).to(self.dtype).cpu()

    @property
    def encoders(self) -> str:
        """What the rows are made by, for those who keep them."""
        text = "ids" if self.reads_along else f"{network_hash(self.parts.text)} {self.parts.skip} {self.dtype}"
        return f"{network_hash(self.parts.vae)} {self.parts.vae.config.latent_scale} {text}"

    def drawing(self, rows: RowSource, dropout: float, seed: int) -> Callable[[int], Draw]:
        """What each image of a run is learnt as."""
        with torch.inference_mode():
            (empty,) = self.read([""])
        return lambda position: drawn(rows(position), empty, dropout, self._share(position, seed), seed, position)

    def told(self, draws: Sequence[Draw], shares: Sequence[float], min_snr: float | None = None) -> Told:
        """A batch at these shares of the noise levels, on the device."""
        x0, noise = (torch.stack(column) for column in ([d.x0 for d in draws], [d.noise for d in draws]))
        x0, noise = (part.to(self.device, memory_format=torch.channels_last) for part in (x0, noise))
        texts = torch.stack([draw.text for draw in draws]).to(self.device)
        return lesson(self.parametrisation, x0, noise, self._levels(torch.tensor(shares).double()), min_snr), texts

    def exam(self, rows: RowSource, count: int, seed: int) -> list[Draw]:
        """The first pictures of a source, with latents and noise that never change."""
        nothing = torch.empty(0)  # no caption is left out
        return [drawn(rows(place), nothing, 0.0, 0.0, seed, -1 - place) for place in range(count)]

    def marks(self, answer: Answer, exam: Sequence[Draw], batch_size: int) -> list[float]:
        """The mean squared error of the output at each of the fixed noise levels."""
        batches = [exam[first : first + batch_size] for first in range(0, len(exam), batch_size)]
        return [sum(self._errors(answer, batch, share) for batch in batches) / len(exam) for share in SHARES]

    @torch.no_grad()
    def _errors(self, answer: Answer, exam: Sequence[Draw], share: float) -> float:
        wanted, texts = self.told(exam, [share] * len(exam))
        errors = (answer(wanted, texts).float() - wanted.target).square()
        return float(errors.flatten(1).mean(1).sum())

    def _share(self, position: int, seed: int) -> float:
        share = evenly(position, seed)
        return share if self.spread is None else middling(share, self.spread)

    def _levels(self, shares: Tensor) -> Tensor:
        if self.parametrisation.target == "flow":
            return flow_levels(shares, self.shift)
        assert self.parametrisation.table is not None
        return levels(self.parametrisation.table, shares)
