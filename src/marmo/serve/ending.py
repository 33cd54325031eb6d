"""How an attempt comes to its end in the journal, whatever the disk says; the picture waits in memory meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from marmo.request import ImageRequest
from marmo.serve import gallery, rows
from marmo.serve.contract import Failed, Finished, Stopped
from marmo.serve.disk import Database
from marmo.serve.gallery import NewImage
from marmo.serve.journal import JournalError
from marmo.serve.rows import Change, Moved, Stale
from marmo.serve.storage import Storage

PAUSES = (0.05, 0.2, 1.0, 2.0)
"""Seconds before an end is tried again; the last from then on."""

MAX_CRASHES = 3
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


async def until_written(storage: Storage, end: Callable[[], Awaitable[Moved]]) -> Moved | None:
    """Try until the disk takes it; `None` where the job has ended otherwise meanwhile."""
    pauses = iter(PAUSES)
    while True:
        try:
            return await end()
        except Stale:
            return None
        except (JournalError, OSError) as error:
            storage.note(error)
        await asyncio.sleep(next(pauses, PAUSES[-1]))


async def finish(storage: Storage, report: Finished, request: ImageRequest, owner: str, now: float) -> Moved:
    """Pictures first, then the row that names them.  What is no PNG file fails the job: no disk is to blame for it."""
    if not all(data.startswith(PNG) for data in report.pictures):
        return await fail(storage, Failed(report.job, report.attempt, "internal", "the worker sent no picture"), now)
    change = Change(
        job=report.job, before="running", attempt=report.attempt, after="succeeded", kind="succeeded", time=now,
        notes=report.notes,
    )  # fmt: skip

    def write(hashes: Sequence[str], database: Database) -> Moved:
        images = [
            NewImage(sha256, len(data), *_size(data)) for sha256, data in zip(hashes, report.pictures, strict=True)
        ]
        return gallery.succeed(database, change, request, owner, images)

    return await storage.write_with(report.pictures, write)


async def fail(storage: Storage, report: Failed, now: float) -> Moved:
    change = Change(
        job=report.job, before="running", attempt=report.attempt, after="failed", kind="failed", time=now,
        code=report.code, message=report.message,
    )  # fmt: skip
    return await storage.write(partial(rows.move, change=change))


async def stop(storage: Storage, report: Stopped, is_cancelled: bool, now: float) -> Moved:
    """Cancelled, or parked until it is begun again."""
    after, kind = ("cancelled", "cancelled") if report.cancelled or is_cancelled else ("queued", "parked")
    change = Change(job=report.job, before="running", attempt=report.attempt, after=after, kind=kind, time=now)
    return await storage.write(partial(rows.move, change=change))


async def crash(storage: Storage, job: str, attempt: int, crashes: int, reason: str, now: float) -> Moved:
    change = rows.crash(job, attempt, crashes, MAX_CRASHES, now, reason)
    return await storage.write(partial(rows.move, change=change))


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, from the header."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
