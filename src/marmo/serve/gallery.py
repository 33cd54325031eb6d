"""Finished pictures as rows: found again, starred, put on boards, thrown away, taken out of the trash, gone for good.

Every function is one read or one write of the journal, and may run twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from marmo.request import ImageRequest
from marmo.serve.disk import Database, Row, Value
from marmo.serve.job import ImageQuery, Page, StoredImage, Unknown
from marmo.serve.rows import Change, Moved, equal, move, next_page, page_start, select

TRASH_SECONDS = 30 * 86400

SELECT = (
    "SELECT number, id, sha256, (SELECT id FROM jobs WHERE jobs.number = images.job), place, owner, size, width, "
    "height, created, prompt, model, seed, starred, board, deleted FROM images"
)


@dataclass(frozen=True)
class NewImage:
    """A picture whose file is on the disk already."""

    sha256: str
    size: int
    width: int
    height: int


def succeed(database: Database, change: Change, request: ImageRequest, owner: str, images: Sequence[NewImage]) -> Moved:
    """The job's end and its pictures, in one.  Raises `rows.Stale`."""
    moved = move(database, change)
    for place, image in enumerate(images) if moved.fresh else ():
        row = {
            "id": image_id(change.job, place), "job": moved.number, "place": place, "owner": owner,
            "sha256": image.sha256, "size": image.size, "width": image.width, "height": image.height,
            "created": change.time, "prompt": request.prompt, "folded": request.prompt.casefold(),
            "model": request.model or "", "seed": request.picture_seed(place),
        }  # fmt: skip
        sql = f"INSERT INTO images ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        database.execute(sql, tuple(row.values()))
    return replace(moved, images=tuple(image_id(change.job, place) for place in range(len(images))))


def image_id(job: str, place: int) -> str:
    return f"{job}-{place}"


def get(database: Database, id: str, owner: str | None) -> StoredImage:
    """Raises `Unknown`."""
    rows = database.execute(f"{SELECT} WHERE id = ?", (id,))
    if not rows or owner not in (None, rows[0][5]):
        raise Unknown("there is no such picture")
    return _image(rows[0])


def find(database: Database, query: ImageQuery, after: str | None, limit: int) -> Page[StoredImage]:
    """The newest first.  Raises `ValueError` for an `after` that is not from a page."""
    starred = None if query.starred is None else int(query.starred)
    conditions: list[tuple[str, Sequence[Value]]] = [
        ("number < ?", (page_start(after),)),
        (f"deleted IS {'NOT ' if query.trashed else ''}NULL", ()),
        *equal({"owner": query.owner, "model": query.model, "seed": query.seed, "board": query.board}),
        *equal({"width": query.width, "height": query.height, "starred": starred}),
    ]
    if query.text:
        conditions.append(("instr(folded, ?)", (query.text.casefold(),)))
    if query.job is not None:
        conditions.append(("job = (SELECT number FROM jobs WHERE id = ?)", (query.job,)))
    rows = select(database, SELECT, conditions, limit + 1)
    return Page(tuple(map(_image, rows[:limit])), next_page(rows, limit))


def mark(
    database: Database, id: str, owner: str | None, starred: bool | None, board: str | Literal[False] | None
) -> StoredImage:
    """Change its star or board where they are not `None`; board `False` is none.  Raises `Unknown`."""
    image = get(database, id, owner)
    new_star = image.starred if starred is None else starred
    new_board = image.board if board is None else (board or None)
    database.execute("UPDATE images SET starred = ?, board = ? WHERE id = ?", (int(new_star), new_board, id))
    return get(database, id, owner)


def trash(database: Database, id: str, owner: str | None, now: float) -> StoredImage:
    """Into the trash, if it is not there already.  Raises `Unknown`."""
    get(database, id, owner)
    database.execute("UPDATE images SET deleted = ? WHERE id = ? AND deleted IS NULL", (now, id))
    return get(database, id, owner)


def restore(database: Database, id: str, owner: str | None) -> StoredImage:
    """Out of the trash.  Raises `Unknown`."""
    get(database, id, owner)
    database.execute("UPDATE images SET deleted = NULL WHERE id = ?", (id,))
    return get(database, id, owner)


def boards(database: Database, owner: str | None) -> dict[str, int]:
    """Board -> its pictures outside the trash."""
    mine = "AND owner = ?" if owner is not None else ""
    rows = database.execute(
        f"SELECT board, count(*) FROM images WHERE board IS NOT NULL AND deleted IS NULL {mine} "
        "GROUP BY board ORDER BY board",
        (owner,) if owner is not None else (),
    )
    return {str(board): cast(int, number) for board, number in rows}


def purge(database: Database, now: float) -> list[str]:
    """Forget what has been in the trash for 30 days; the hashes of their files."""
    rows = database.execute("DELETE FROM images WHERE deleted < ? RETURNING sha256", (now - TRASH_SECONDS,))
    return [str(sha256) for (sha256,) in rows]


def unused(database: Database, hashes: Iterable[str]) -> list[str]:
    """Those that no row names: neither a picture nor an input of a job."""
    return [
        sha256
        for sha256 in hashes
        if not database.execute("SELECT 1 FROM images WHERE sha256 = ? LIMIT 1", (sha256,))
        and not database.execute("SELECT 1 FROM inputs WHERE sha256 = ? LIMIT 1", (sha256,))
    ]


def _image(row: Row) -> StoredImage:
    _, id, sha256, job, place, owner, size, width, height, created, prompt, model, seed, starred, board, deleted = cast(
        tuple[
            int, str, str, str, int, str, int, int, int, float, str, str, int, int, str | None, float | None
        ],
        row,
    )  # fmt: skip
    return StoredImage(
        id=id, sha256=sha256, job=job, index=place, owner=owner, size=size, width=width, height=height, created=created,
        prompt=prompt, model=model, seed=seed, starred=bool(starred), board=board, deleted=deleted,
    )  # fmt: skip
