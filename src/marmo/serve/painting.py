"""One task on its way: its walk, what it waits for, and what its owner is told.

Nothing here knows of other tasks.  Reports go to `tell`; what goes wrong is raised to whoever drives.
"""

import time
from collections.abc import Callable, Iterator
from io import BytesIO

from PIL import Image

from marmo.files.pictures import encode_picture
from marmo.pipelines.events import Event, Result, Stage, Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Ask, Decode
from marmo.pipelines.upscaler import Enlarge, Upscaler
from marmo.serve import troubles
from marmo.serve.contract import Finished, Previewed, Report, Staged, Stepped, Task
from marmo.serve.pace import batch_key
from marmo.serve.stock import Stock

PREVIEW_SIDE = 512
PREVIEW_QUALITY = 70


class Painting:
    """A task, painted by being advanced from one work to the next.

    Args:
        crowded: whether the reports pile up, so that a preview would only add to them.
    """

    def __init__(self, task: Task, tell: Callable[[Report], None], crowded: Callable[[], bool]) -> None:
        self.task, self._tell, self._crowded = task, tell, crowded
        self.batch = batch_key(task.request)
        self.model: LatentDiffusion | Upscaler | None = None
        self.work: Ask | Decode | Enlarge | None = None
        """What must be answered before the walk goes on; none before the start and behind the end."""
        self.ended = False
        self.begun_again = False
        self._walk: Iterator[Event | Ask | Decode | Enlarge] = iter(())
        self._last: tuple[int, int] | None = None
        self._since = 0.0

    def open(self, stock: Stock) -> None:
        """Find the models, and stand before the walk."""
        self._tell(Staged(self.task.job, self.task.attempt, "loading"))
        self.model = stock.find(self.task.request)
        request, size = stock.painted(self.task.request), ("width", "height")
        if any(getattr(request, side) is None for side in size):  # the picture that it starts from decides
            request = self.model.resolve(request)
            sized = {side: getattr(request, side) for side in size}
            self.batch = batch_key(self.task.request.model_copy(update=sized))
        self._walk = self.model.walk(request)

    def begin_again(self) -> None:
        """Back to where `open` is due; what was painted is forgotten, and comes out the same."""
        self.close()
        self.begun_again = True

    def close(self) -> None:
        """Let go of all memory."""
        self.model, self.work, self._walk = None, None, iter(())

    def advance(self) -> None:
        """On to the next work, or to the end."""
        if isinstance(self.work, Enlarge) and isinstance(self.model, Upscaler):  # its pieces are its steps
            self._count(self.work.index, self.work.total)
        self.work = None
        for event in self._walk:
            match event:
                case Ask() | Decode() | Enlarge():
                    self.work = event
                    return
                case Stage():
                    self._tell(Staged(self.task.job, self.task.attempt, event.name))
                    self._last, self._since = None, time.monotonic()
                case Step():
                    self._step(event)
                case Result():
                    self._finish(event)

    def _step(self, step: Step) -> None:
        """A step is told once, at the first of its answers: Heun's has two."""
        if self._last == (step.index, step.total):
            return
        total = max(step.total, step.index + 1)
        self._count(step.index, total)
        self._last = step.index, step.total
        every = self.task.preview_every
        if every and (step.index + 1) % every == 0 and step.index + 1 < total and not self._crowded():
            self._preview(step)

    def _count(self, index: int, total: int) -> None:
        now = time.monotonic()
        self._tell(Stepped(self.task.job, self.task.attempt, index, total, now - self._since))
        self._since = now

    def _preview(self, step: Step) -> None:
        """No picture is lost for a preview that memory has no room for."""
        try:
            pictures = tuple(_jpeg(picture) for picture in step.preview())
        except Exception as error:
            if not troubles.is_out_of_memory(error):
                raise
            return
        self._tell(Previewed(self.task.job, self.task.attempt, step.index, pictures))

    def _finish(self, result: Result) -> None:
        pictures = zip(result.images, result.records, strict=True)
        files = tuple(encode_picture(picture, record, ".png") for picture, record in pictures)
        self.ended = True
        self._tell(Finished(self.task.job, self.task.attempt, files, result.notes))


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=PREVIEW_QUALITY)
    return stream.getvalue()
