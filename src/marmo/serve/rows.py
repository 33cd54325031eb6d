"""Jobs and their events as rows: every function is one read or one write of the journal.

A write looks first at what is there, so that it may run twice; `Stale` says that the job has moved on meanwhile.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from pydantic import ValidationError

from marmo.request import ImageRequest
from marmo.serve.disk import Database, Row, Value
from marmo.serve.job import ENDED, EventKind, Job, JobEvent, JobQuery, KeyConflict, Page, State, Unknown

PLACES = 20
"""Bits of a `seq` below the number of the last lasting event: room for what passes in between."""

COLUMNS = (
    "number, id, owner, state, request, priority, attempt, crashes, created, started, finished, code, message, notes"
)

UNREADABLE = ImageRequest(num_images=1)
"""Without a model and a seed, which every request in the journal has."""


class Stale(Exception):
    """The job is not in the state or attempt that a change starts from."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the job is {state} by now")
        self.state: State = state


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What is written when a job is submitted."""

    id: str
    owner: str
    key: str | None
    digest: str
    """sha256 of the request as the client sent it."""
    priority: int
    request: ImageRequest
    """Resolved and bare."""
    inputs: Mapping[str, str]
    work: float
    created: float


@dataclass(frozen=True)
class Waiting:
    """What the schedule must know about a queued job."""

    number: int
    """In the order of submission."""
    id: str
    owner: str
    priority: int
    model: str
    work: float
    attempt: int
    crashes: int
    created: float


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step from one state to the next, if the job is still in `before` at `attempt`."""

    job: str
    before: State
    attempt: int
    after: State
    kind: EventKind
    time: float
    crashed: bool = False
    code: str | None = None
    message: str | None = None
    notes: Sequence[str] = ()

    @property
    def next_attempt(self) -> int:
        return self.attempt + (self.kind == "started")


def add(database: Database, new: NewJob) -> int | str:
    """The new job's number; or the id of the job that has this key already.  Raises `KeyConflict`."""
    if known := database.execute("SELECT number FROM jobs WHERE id = ?", (new.id,)):
        return cast(int, known[0][0])
    same = find_key(database, new.owner, new.key, new.digest) if new.key is not None else None
    return _insert(database, new) if same is None else same


@dataclass(frozen=True)
class Moved:
    """A change that is in the journal."""

    event: JobEvent
    number: int
    fresh: bool
    """Whether it happened now and not at an earlier try of the same write."""
    images: tuple[str, ...] = ()
    """Ids of the pictures that came with it."""


def move(database: Database, change: Change) -> Moved:
    """Make the change.  Raises `Stale`, `Unknown`."""
    rows = database.execute("SELECT number, state, attempt, events FROM jobs WHERE id = ?", (change.job,))
    if not rows:
        raise Unknown("there is no such job")
    number, state, attempt, last = cast(tuple[int, State, int, int], rows[0])
    if state == change.after and attempt == change.next_attempt:
        newest = _events(database, number, change.job, last)[0]
        if newest.kind == change.kind:
            return Moved(newest, number, False)
    if state != change.before or attempt != change.attempt:
        raise Stale(state)
    _update(database, number, change)
    _insert_event(database, number, last + 1, change)
    return Moved(_events(database, number, change.job, last + 1)[0], number, True)


def ask_to_cancel(database: Database, job: str) -> None:
    """A running job is cancelled even if the server dies before it has stopped."""
    database.execute("UPDATE jobs SET cancelling = 1 WHERE id = ? AND state = 'running'", (job,))


def recover(database: Database, now: float) -> list[Waiting]:
    """What was running when the server died waits again, or is cancelled as it was asked.

    No crash is counted: had the worker died of the job, the server would have lived to write that down.
    """
    rows = database.execute("SELECT id, attempt, cancelling FROM jobs WHERE state = 'running'")
    for id, attempt, cancelling in cast(list[tuple[str, int, int]], rows):
        after, kind = ("cancelled", "cancelled") if cancelling else ("queued", "parked")
        said = None if cancelling else "the server was killed"
        change = Change(
            job=id, before="running", attempt=attempt, after=after, kind=kind, time=now, message=said
        )  # fmt: skip
        move(database, change)
    return waiting(database)


def crash(job: str, attempt: int, crashes: int, max_crashes: int, now: float, reason: str) -> Change:
    """What becomes of a running job whose worker has died."""
    if crashes + 1 < max_crashes:
        return Change(
            job=job, before="running", attempt=attempt, after="queued", kind="parked", time=now, crashed=True,
            code="crash", message=reason,
        )  # fmt: skip
    return Change(
        job=job, before="running", attempt=attempt, after="quarantined", kind="quarantined", time=now, crashed=True,
        code="crash", message=f"{crashes + 1} workers died with this job in hand, the last one because {reason}",
    )  # fmt: skip


def waiting(database: Database) -> list[Waiting]:
    """All queued jobs in the order of submission."""
    columns = "number, id, owner, priority, model, work, attempt, crashes, created"
    rows = database.execute(f"SELECT {columns} FROM jobs WHERE state = 'queued' ORDER BY number")
    return [Waiting(*row) for row in cast(list[tuple[int, str, str, int, str, float, int, int, float]], rows)]


def get(database: Database, id: str, owner: str | None) -> Job:
    """Raises `Unknown`."""
    rows = database.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (id,))
    if not rows or owner not in (None, rows[0][2]):
        raise Unknown("there is no such job")
    return _job(database, rows[0])


def requests(database: Database, ids: Sequence[str]) -> list[tuple[ImageRequest, Mapping[str, str]]]:
    """The bare requests and the hashes of their pictures."""
    sql = f"SELECT id, number, request FROM jobs WHERE id IN ({', '.join('?' * len(ids))})"
    rows = cast(list[tuple[str, int, str]], database.execute(sql, ids))
    found = {id: (_request(text), _inputs(database, number)) for id, number, text in rows}
    return [found[id] for id in ids]


def find_key(database: Database, owner: str, key: str, digest: str) -> str | None:
    """The id of the job that has this key.  Raises `KeyConflict` where its request was another."""
    rows = database.execute("SELECT id, digest FROM jobs WHERE owner = ? AND key = ?", (owner, key))
    if rows and rows[0][1] != digest:
        raise KeyConflict(str(rows[0][0]))
    return str(rows[0][0]) if rows else None


def find(database: Database, query: JobQuery, after: str | None, limit: int) -> Page[Job]:
    """The newest first.  Raises `ValueError` for an `after` that is not from a page."""
    conditions: list[tuple[str, Sequence[Value]]] = [
        ("number < ?", (page_start(after),)),
        *equal({"owner": query.owner, "model": query.model, "seed": query.seed}),
        *equal({"width": query.width, "height": query.height}),
    ]
    if query.text:
        conditions.append(("instr(folded, ?)", (query.text.casefold(),)))
    if query.states is not None:
        conditions.append((f"state IN ({', '.join('?' * len(query.states))})", sorted(query.states)))
    rows = select(database, f"SELECT {COLUMNS} FROM jobs", conditions, limit + 1)
    return Page(tuple(_job(database, row) for row in rows[:limit]), next_page(rows, limit))


def events(database: Database, id: str, owner: str | None, after: int) -> tuple[Job, list[JobEvent]]:
    """The job and its lasting events above a `seq`.  Raises `Unknown`."""
    job = get(database, id, owner)
    number = cast(int, database.execute("SELECT number FROM jobs WHERE id = ?", (id,))[0][0])
    found = [event for event in _events(database, number, id, after >> PLACES) if event.seq > after]
    if any(event.ends for event in found):
        job = get(database, id, owner)  # it may have ended between the two readings
    return job, [replace(event, images=job.images) if event.kind == "succeeded" else event for event in found]


def select(database: Database, sql: str, conditions: Sequence[tuple[str, Sequence[Value]]], limit: int) -> list[Row]:
    """The newest rows that fulfil all conditions."""
    where = " AND ".join(condition for condition, _ in conditions)
    values = [value for _, some in conditions for value in some]
    return database.execute(f"{sql} WHERE {where} ORDER BY number DESC LIMIT ?", (*values, limit))


def equal(wanted: Mapping[str, Value]) -> list[tuple[str, Sequence[Value]]]:
    """Conditions that columns have values; `None` is no condition."""
    return [(f"{name} = ?", (value,)) for name, value in wanted.items() if value is not None]


def page_start(after: str | None) -> int:
    """The number that a page lies below."""
    if after is None:
        return 2**63 - 1
    if not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise ValueError(f"after is what an earlier page gave as next, not {after[:40]!r}")
    return int(after)


def next_page(rows: Sequence[Row], limit: int) -> str | None:
    """Where the page behind these rows begins, of which one was read beyond the limit."""
    return str(rows[limit - 1][0]) if len(rows) > limit else None


def _insert(database: Database, new: NewJob) -> int:
    request = new.request
    row = {
        "id": new.id, "owner": new.owner, "key": new.key, "digest": new.digest, "state": "queued",
        "priority": new.priority, "request": request.model_dump_json(), "folded": request.prompt.casefold(),
        "model": request.model or "", "seed": request.seed or 0, "width": request.width or 0,
        "height": request.height or 0, "work": new.work, "created": new.created, "events": 1,
    }  # fmt: skip
    marks = ", ".join("?" * len(row))
    sql = f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks}) RETURNING number"
    number = cast(int, database.execute(sql, tuple(row.values()))[0][0])
    for place, sha256 in new.inputs.items():
        database.execute("INSERT INTO inputs VALUES (?, ?, ?)", (number, place, sha256))
    first = (number, 1, "queued", new.created, 0, None, None)
    database.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", first)
    return number


def _update(database: Database, number: int, change: Change) -> None:
    database.execute(
        "UPDATE jobs SET state = ?, attempt = ?, crashes = crashes + ?, events = events + 1, code = ?, message = ?, "
        "notes = ?, started = coalesce(?, started), finished = ?, cancelling = 0 WHERE number = ?",
        (
            change.after, change.next_attempt, int(change.crashed), change.code, change.message,
            json.dumps(list(change.notes)), change.time if change.kind == "started" else None,
            change.time if change.after in ENDED else None, number,
        ),
    )  # fmt: skip


def _insert_event(database: Database, number: int, place: int, change: Change) -> None:
    row = (number, place, change.kind, change.time, change.next_attempt, change.code, change.message)
    database.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _events(database: Database, number: int, job: str, first: int) -> list[JobEvent]:
    """From the event with this number on."""
    sql = "SELECT number, kind, time, attempt, code, message FROM events WHERE job = ? AND number >= ? ORDER BY number"
    rows = cast(list[tuple[int, EventKind, float, int, str | None, str | None]], database.execute(sql, (number, first)))
    return [
        JobEvent(
            seq=place << PLACES, job=job, kind=kind, time=time, attempt=attempt, code=code, message=message
        )
        for place, kind, time, attempt, code, message in rows
    ]  # fmt: skip


def _request(text: str) -> ImageRequest:
    """A stored request.  Of one that another version of Marmo wrote and this one cannot read, what it asked for in
    words: enough to be listed; its settings would not be what was asked for, so it must not be painted."""
    try:
        return ImageRequest.model_validate_json(text)
    except ValidationError:
        prompt = cast(object, json.loads(text).get("prompt"))
        return UNREADABLE.model_copy(update={"prompt": str(prompt)})


def _inputs(database: Database, number: int) -> dict[str, str]:
    rows = database.execute("SELECT place, sha256 FROM inputs WHERE job = ? ORDER BY place", (number,))
    return {str(place): str(sha256) for place, sha256 in rows}


def _job(database: Database, row: Row) -> Job:
    number, id, owner, state, request, priority, attempt, crashes, created, started, finished, code, message, notes = (
        cast(
            tuple[
                int, str, str, State, str, int, int, int, float, float | None, float | None, str | None, str | None, str
            ],
            row,
        )
    )
    images = database.execute("SELECT id FROM images WHERE job = ? ORDER BY place", (number,))
    return Job(
        id=id, owner=owner, state=state, request=_request(request),
        inputs=_inputs(database, number), priority=priority, attempt=attempt, crashes=crashes, created=created,
        started=started, finished=finished, code=code, message=message, notes=tuple(json.loads(notes)),
        images=tuple(str(image) for (image,) in images),
    )  # fmt: skip
