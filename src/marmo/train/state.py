"""What a training run has become: networks, optimisers, averages and how many images they have seen.

    state = State({"model": Learner(model, optim.adamw(model), batch_size=256, clip=1.0)})
    state.step(loss, lr)                                                 # one update, or a part of one

A GAN has two learners and two steps in view: `state.learners["discriminator"].step(...)`, then `state.step(...)`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from marmo.train import ranks
from marmo.train.ema import Average


class Learner:
    """A network, its optimiser and its averages: what one loss moves.

    Args:
        averages: by name; they follow every update.
        batch_size: images in one update, of all ranks together.
        accumulate: calls of `step` that make one update.
        clip: what the norm of all gradients is brought down to, if it is larger; `None` leaves them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        averages: Mapping[str, Average] | None = None,
        *,
        batch_size: int,
        accumulate: int = 1,
        clip: float | None = None,
    ) -> None:
        if batch_size < 1 or accumulate < 1 or batch_size % (accumulate * ranks.num_ranks()):
            raise ValueError(
                f"a batch of {batch_size} images does not divide into {ranks.num_ranks()} ranks with {accumulate} "
                "parts each"
            )
        self.model, self.optimizer, self.averages = model, optimizer, averages or {}
        self.batch_size, self.accumulate, self.clip = batch_size, accumulate, clip
        self.images = 0
        self.pending = 0
        """Calls of `step` since the last update."""
        self.norm = torch.zeros(())
        """Of the last update's gradients, before clipping."""
        ranks.broadcast(model.state_dict().values())

    @property
    def lr(self) -> float:
        """The rate of the last update."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, loss: Tensor, lr: float) -> None:
        """Add the gradients of a part's mean loss; with the last part, update.

        Args:
            loss: no axes; the mean over this rank's images of this part.
        """
        (loss / self.accumulate).backward()  # pyright: ignore[reportUnknownMemberType]
        self.pending += 1
        if self.pending == self.accumulate:
            self._update(lr)

    def _update(self, lr: float) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        ranks.average_gradients(parameters)
        limit = float("inf") if self.clip is None else self.clip
        self.norm = nn.utils.clip_grad_norm_(parameters, limit)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("share", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        ranks.broadcast(self.model.buffers())  # running statistics differ from rank to rank
        self.pending = 0
        self.images += self.batch_size
        for average in self.averages.values():
            average.update(self.model, self.images, self.batch_size)


class State:
    """All learners of a run.  The first is the main one, whose images are the run's clock."""

    def __init__(self, learners: Mapping[str, Learner]) -> None:
        self.learners = dict(learners)
        self.main = next(iter(self.learners.values()))

    @property
    def images(self) -> int:
        """Images that the main learner has seen."""
        return self.main.images

    @property
    def position(self) -> int:
        """Where in the endless sequence of images the next part of a batch begins."""
        return self.images + self.main.pending * (self.main.batch_size // self.main.accumulate)

    def step(self, loss: Tensor, lr: float) -> None:
        """The main learner's step, which moves the clock; other learners step before it."""
        self.main.step(loss, lr)

    def passed(self, interval: int) -> bool:
        """Whether the update just made carried the clock over a multiple of `interval`; 0 is never."""
        if interval == 0 or self.main.pending or self.images == 0:
            return False
        return self.images // interval > (self.images - self.main.batch_size) // interval
