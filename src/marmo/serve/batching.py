"""Many tasks painted side by side: samplers at different steps ask together, and each keeps what is its own.

A batch does one operation at a time: it opens a task, answers the questions of a group, or decodes a picture.  Between
two operations tasks may join and leave.  A group is the tasks that wait for the same network with latents of the same
size; one call answers them all.  Noise, progress, previews, errors and the end are every task's own.

What a mate may change (docs/serve-batching.md): with `Task.invariant` nothing, because its questions are asked alone,
as `LatentDiffusion.stream` asks them; else the last bits of sums, because a larger batch is summed in another order.
"""

import time
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from functools import partial

from marmo.pipelines.painter import Ask, Decode, answer_together
from marmo.pipelines.upscaler import Enlarge
from marmo.serve import troubles
from marmo.serve.contract import Failed, Report, Stopped, Task
from marmo.serve.hands import Hands
from marmo.serve.ladder import climb_down, rungs
from marmo.serve.messages import Began, Ended, Kind, Operation, Tight
from marmo.serve.pace import MOST
from marmo.serve.painting import Painting
from marmo.serve.stock import Stock


class Batch:
    """The tasks that a worker has in hand.

    Args:
        tell: takes reports, and what the supervisor must know of operations.
        crowded: whether reports pile up, so that previews should rather not be made.
    """

    def __init__(
        self,
        stock: Stock,
        tell: Callable[[Report | Began | Ended | Tight], None],
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stock, self._tell, self._crowded = stock, tell, crowded
        self._hands = Hands()
        self._paintings: dict[str, Painting] = {}
        """By job; who has waited longest stands first."""
        self._limits: dict[Hashable, int] = {}
        """Form of a group -> the most rows that fitted into memory."""

    def __len__(self) -> int:
        return len(self._paintings)

    def add(self, task: Task) -> None:
        """Take a task; it is opened when its turn comes."""
        assert task.job not in self._paintings, "one attempt at a time"
        self._paintings[task.job] = Painting(task, self._tell, self._crowded)

    def cancel(self, job: str) -> None:
        """Let a task go, if it is there."""
        if job in self._paintings:
            self._hand_back(self._paintings.pop(job), cancelled=True)

    def stop(self) -> None:
        """Hand everything back."""
        while self._paintings:
            self._hand_back(self._paintings.popitem()[1], cancelled=False)

    def work(self) -> None:
        """One operation, for the task that has waited longest and those who can share it.  Raises `troubles.Lost`."""
        first = next(iter(self._paintings.values()))
        if isinstance(first.work, Ask):
            self._ask(self._group(first))
        elif first.work is not None:
            self._whole(first, first.work)
        else:
            self._open(first)

    def _open(self, painting: Painting) -> None:
        self._served(painting)
        with self._timed("opening", painting):
            opened = self._try(painting, lambda: self._hands.do(lambda: painting.open(self._stock)))
        if opened:
            with self._timed("encoding", painting):
                self._advance(painting)

    def _whole(self, painting: Painting, work: Decode | Enlarge) -> None:
        """A picture, or a piece of one, which shares its work with no other."""
        self._served(painting)
        with self._timed("decoding" if isinstance(work, Decode) else "enlarging", painting):
            self._alone(painting)

    def _ask(self, group: Sequence[Painting]) -> None:
        self._served(*group)
        with self._timed("step", *group):
            if len(group) > 1 and self._together(group):
                for painting in group:
                    self._advance(painting)
            else:
                for painting in group:
                    self._alone(painting)

    def _group(self, first: Painting) -> Sequence[Painting]:
        """Who is answered together with the first, up to what fits into memory."""
        form, group = _form(first), [first]
        room = self._limits.get(form, MOST) - _rows(first)
        for painting in self._paintings.values():
            if painting is not first and form is not None and _form(painting) == form and _rows(painting) <= room:
                group.append(painting)
                room -= _rows(painting)
        return group

    def _together(self, group: Sequence[Painting]) -> bool:
        """Answer a group in one go; whether that went well.  Why not shows when each is answered alone."""
        asks = [painting.work for painting in group if isinstance(painting.work, Ask)]
        try:
            self._hands.do(lambda: answer_together(asks))
            return True
        except Exception as error:
            troubles.check_device(error)
            is_tight = troubles.is_out_of_memory(error)
        if is_tight:
            rows = sum(map(_rows, group))
            self._limits[_form(group[0])] = rows // 2
            self._tell(Tight(group[0].batch, rows))
            self._relieve()  # not before: the error holds what the call had in memory
        return False

    def _alone(self, painting: Painting) -> None:
        work = painting.work
        assert work is not None, "it waits for an answer"
        ways = [partial(self._hands.do, rung) for rung in rungs(work)]
        if self._try(painting, lambda: climb_down(ways, self._relieve), last=True):
            self._advance(painting)

    def _advance(self, painting: Painting) -> bool:
        return self._try(painting, lambda: self._hands.do(painting.advance))

    def _try(self, painting: Painting, action: Callable[[], None], last: bool = False) -> bool:
        """Whether an action for one task went well.  Out of memory is tried once more from the task's beginning, unless
        it was the last that could be done."""
        try:
            action()
            if painting.ended:
                del self._paintings[painting.task.job]
            return True
        except Exception as error:
            troubles.check_device(error)
            is_tight = troubles.is_out_of_memory(error)
            again = is_tight and not last and not painting.begun_again
            if not again:
                self._fail(painting, error)
        if is_tight:
            self._relieve()
        if again:
            painting.begin_again()
        return False

    def _fail(self, painting: Painting, error: Exception) -> None:
        task, code = painting.task, troubles.code_of(error)
        if code == "internal":
            troubles.log(error)
        del self._paintings[task.job]
        painting.close()
        self._tell(Failed(task.job, task.attempt, code, troubles.sentence(error, task.request)))

    def _hand_back(self, painting: Painting, cancelled: bool) -> None:
        painting.close()
        self._tell(Stopped(painting.task.job, painting.task.attempt, cancelled))

    def _relieve(self) -> None:
        self._hands.renew()
        self._stock.relieve([painting.model for painting in self._paintings.values() if painting.model is not None])

    def _served(self, *paintings: Painting) -> None:
        """To the end of the row."""
        for painting in paintings:
            self._paintings[painting.task.job] = self._paintings.pop(painting.task.job)

    @contextmanager
    def _timed(self, kind: Kind, *paintings: Painting) -> Generator[None]:
        """Tell the supervisor what is done, so that it knows how long to wait."""
        rows = sum(map(_rows, paintings))
        operation = Operation(kind, _likeness(paintings[0]), max(1, rows))
        self._tell(Began(operation))
        start = time.monotonic()
        yield
        self._tell(Ended(operation, time.monotonic() - start))


def _form(painting: Painting) -> Hashable:
    """The same for paintings whose questions one call can answer; `None` for one that keeps to itself."""
    if painting.task.invariant or not isinstance(painting.work, Ask):
        return None
    return id(painting.work.painter), frozenset(question.x.shape[1:] for question in painting.work.questions)


def _likeness(painting: Painting) -> str:
    """The same for operations that take about as long as one another."""
    work = painting.work
    if not isinstance(work, Enlarge):
        return painting.batch
    return f"{work.upscaler.card.name} {'x'.join(str(side) for side in work.pixels.shape[2:])}"


def _rows(painting: Painting) -> int:
    if not isinstance(painting.work, Ask):
        return 0
    return sum(len(question.x) for question in painting.work.questions)
