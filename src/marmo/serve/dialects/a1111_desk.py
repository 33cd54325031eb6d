"""What A1111 keeps for one user of one program, here kept for each: options, and the jobs that are being waited for.

A1111's `interrupt` stops whoever paints, and its `progress` shows it.  Here both are about the caller's own jobs: those
of the same user, first of all those that came from the same client (address and program).  A client that closes its
connection has stopped its job by that; the `interrupt` that some send as well must not stop the next one.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from marmo.serve.context import Context
from marmo.serve.dialects.a1111_options import Options
from marmo.serve.job import Job, Refusal
from marmo.serve.problems import Problem
from marmo.serve.refusals import draining

ECHO_SECONDS = 2.0
"""How long after a client has gone its `interrupt` is about the job that ended with the connection."""


@dataclass(eq=False)
class Sitting:
    """One job that a client waits for."""

    job: Job
    client: str
    preview: bytes | None = None
    """The newest, a JPEG file."""
    interrupted: bool = False


class Desk:
    """The state of one server's A1111 dialect; one event loop uses it."""

    def __init__(self) -> None:
        self._options: dict[str, Options] = {}
        self._sittings: list[Sitting] = []
        self._gone: dict[tuple[str, str], float] = {}

    def options(self, user: str) -> Options:
        """A user's settings."""
        return self._options.get(user, Options())

    def set_options(self, user: str, options: Options) -> None:
        """Keeps them; users are those of the token file, so there are few."""
        self._options[user] = options

    @asynccontextmanager
    async def sitting(self, here: Context, client: str, job: Job) -> AsyncGenerator[Sitting]:
        """While a client waits for its job; what ends the waiting early is taken for the client's going."""
        sitting = Sitting(job, client)
        self._sittings.append(sitting)
        watcher = asyncio.ensure_future(_watch(here, sitting))
        try:
            yield sitting
        except BaseException as end:
            answered = isinstance(end, Problem) and end.code != draining().code  # the job failed; the client is there
            if not sitting.interrupted and not answered:
                self._note_gone(job.owner, client)
            raise
        finally:
            watcher.cancel()
            self._sittings.remove(sitting)

    def current(self, user: str, client: str) -> Sitting | None:
        """The user's job that has waited longest, from this client if it has any."""
        own = [sitting for sitting in self._sittings if sitting.job.owner == user and not sitting.interrupted]
        return next((sitting for sitting in own if sitting.client == client), own[0] if own else None)

    def to_interrupt(self, user: str, client: str) -> Sitting | None:
        """The job that an `interrupt` of this client means; None where it has ended with its connection."""
        if self._gone.pop((user, client), -ECHO_SECONDS) + ECHO_SECONDS > _now():
            return None
        sitting = self.current(user, client)
        if sitting is not None:
            sitting.interrupted = True
        return sitting

    def _note_gone(self, user: str, client: str) -> None:
        now = _now()
        self._gone = {who: when for who, when in self._gone.items() if when + ECHO_SECONDS > now}
        self._gone[user, client] = now


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _watch(here: Context, sitting: Sitting) -> None:
    """Keeps the newest preview."""
    with suppress(Refusal):  # who waits for the job learns of it
        async for event in here.jobs.follow(sitting.job.id):
            if event.kind == "preview" and event.pictures:
                sitting.preview = event.pictures[0]
