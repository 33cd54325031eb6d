"""An engine in this process that paints tiny pictures at once, and does on demand what engines do on bad days.

A word in the prompt decides:

    crash    the worker dies at the second step, with all that it has in hand
    hang     no step ever ends; cancelling and closing help
    fail     an error of the request's own
    (none)   as many steps as asked for, then pictures that depend on prompt and seed alone
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from queue import Empty, SimpleQueue

from PIL import Image

from marmo.files.pictures import encode_picture
from marmo.files.record import Record
from marmo.request import Defaults, ImageRequest
from marmo.serve.contract import Died, Failed, Finished, Model, Previewed, Ready, Report, Staged, Stepped, Stopped, Task

SIDE = 16

DEFAULTS = Defaults(width=64, height=64, steps=4)


def toy_model(id: str = "toy") -> Model:
    return Model(
        id=id, title=f"The {id} model", family="toy", sha256=hashlib.sha256(id.encode()).hexdigest(), licence="CC0-1.0",
        defaults=DEFAULTS,
    )  # fmt: skip


def toy_upscaler(id: str, title: str, grows: int) -> Model:
    """What only enlarges, as the worker offers it; the toy paints as ever."""
    unused = frozenset(ImageRequest.model_fields) - {
        "model", "init_image", "width", "height", "upscale", "seed", "num_images",
    }  # fmt: skip
    defaults = Defaults(paints=False, grows=grows, size_multiple=1, unused=unused)
    return replace(toy_model(id), title=title, family="upscaler", defaults=defaults)


def toy_picture(request: ImageRequest, image: int) -> bytes:
    """The PNG file that the toy paints; the same request always gives the same bytes."""
    seed = request.picture_seed(image)
    digest = hashlib.sha256(f"{request.prompt} {seed}".encode()).digest()
    record = Record(
        marmo="0", torch="0", request=request, image=image, weights={"toy.safetensors": "0" * 64}, dtype="float32",
        device="toy", sigmas=(1.0, 0.0),
    )  # fmt: skip
    picture = Image.new("RGB", (request.width or SIDE, request.height or SIDE), tuple(digest[:3]))
    return encode_picture(picture, record, ".png")


@dataclass
class Work:
    task: Task
    step: int = 0
    is_cancelled: bool = False


class ToyEngine:
    """One thread, one step of all tasks at a time."""

    def __init__(
        self,
        models: Sequence[Model] = (toy_model(),),
        step_seconds: float = 0.0,
        at_once: int = 1,
        start_seconds: float = 0.0,
        knows_all: bool = True,
    ) -> None:
        self.reports: SimpleQueue[Report] = SimpleQueue()
        self.models, self.step_seconds, self.at_once, self.start_seconds = models, step_seconds, at_once, start_seconds
        self.knows_all = knows_all
        """If not, a test puts `Offered` into the reports."""
        self.started: list[tuple[str, int]] = []
        """Every attempt that was handed over, in order."""
        self.most_at_once = 0
        self.go = threading.Event()
        """No step is made while it is cleared; tests that need a crowd do that until it is there."""
        self.go.set()
        self._works: dict[str, Work] = {}
        self._handed: dict[str, Work] = {}
        """What was submitted and has not ended."""
        self._inbox: SimpleQueue[Work] = SimpleQueue()
        self._closing: float | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._run, name="toy", daemon=True).start()

    def room(self, request: ImageRequest, running: Sequence[ImageRequest]) -> bool:
        return len(running) < self.at_once and all(other.model == request.model for other in running)

    def submit(self, task: Task) -> None:
        self.started.append((task.job, task.attempt))
        work = Work(task)
        with self._lock:
            self._handed[task.job] = work
        self._inbox.put(work)

    def cancel(self, job: str) -> None:
        with self._lock:
            if job in self._handed:
                self._handed[job].is_cancelled = True

    def close(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._closing = until if self._closing is None else min(self._closing, until)

    def _run(self) -> None:
        time.sleep(self.start_seconds)
        self.reports.put(Ready(tuple(self.models), self.knows_all))
        while True:
            self._fetch()
            if self.go.is_set():
                for work in list(self._works.values()):
                    self._step(work)
            if self._closing is not None and (time.monotonic() >= self._closing or not self._works):
                return self._hand_back()
            if self._works:
                time.sleep(self.step_seconds)

    def _fetch(self) -> None:
        """Tasks that came; waits a moment for one if there is nothing to do."""
        try:
            while True:
                work = self._inbox.get_nowait() if self._works else self._inbox.get(timeout=0.02)
                self._works[work.task.job] = work
                self.most_at_once = max(self.most_at_once, len(self._works))
                self.reports.put(Staged(work.task.job, work.task.attempt, "encoding"))
        except Empty:
            pass

    def _step(self, work: Work) -> None:
        task = work.task
        prompt, total = task.request.prompt.split(), task.request.steps or 1
        if work.task.job not in self._works:
            return  # died with another
        if work.is_cancelled:
            return self._end(work, Stopped(task.job, task.attempt, True))
        if "hang" in prompt:
            return time.sleep(0.005)
        if "fail" in prompt:
            return self._end(work, Failed(task.job, task.attempt, "request", "the toy was told to fail"))
        if "crash" in prompt and work.step == 1:
            return self._die()
        self.reports.put(Stepped(task.job, task.attempt, work.step, total, self.step_seconds))
        if task.preview_every and work.step % task.preview_every == 0:
            self.reports.put(Previewed(task.job, task.attempt, work.step, (_preview(),)))
        work.step += 1
        if work.step == total:
            self.reports.put(Staged(task.job, task.attempt, "decoding"))
            pictures = tuple(toy_picture(task.request, image) for image in range(task.request.num_images))
            self._end(work, Finished(task.job, task.attempt, pictures, ("painted by a toy",)))

    def _end(self, work: Work, report: Report) -> None:
        self._works.pop(work.task.job, None)
        with self._lock:
            self._handed.pop(work.task.job)
        self.reports.put(report)

    def _die(self) -> None:
        with self._lock:
            attempts = tuple((work.task.job, work.task.attempt) for work in self._handed.values())
            self._handed.clear()
        self._works.clear()
        while not self._inbox.empty():
            self._inbox.get()
        self.reports.put(Died(attempts, "the toy was told to crash"))
        time.sleep(self.start_seconds)
        self.reports.put(Ready(tuple(self.models), self.knows_all))

    def _hand_back(self) -> None:
        for work in list(self._handed.values()):
            self._end(work, Stopped(work.task.job, work.task.attempt, work.is_cancelled))


def _preview() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), "teal").save(stream, "JPEG")
    return stream.getvalue()
