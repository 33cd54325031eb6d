"""The journal's tables, and how they are opened: made, checked after a bad end, refused when newer or damaged.

jobs    one row per job, in the order of submission; `number` orders and pages, `id` is what clients know
inputs  pictures inside requests, by hash
events  what changed a job's state, numbered within the job
images  finished pictures, by hash; in the trash since `deleted`
facts   whether the last end was clean
"""

import sqlite3

from marmo.serve.disk import Database

VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    key TEXT, digest TEXT NOT NULL,
    state TEXT NOT NULL, priority INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0, cancelling INTEGER NOT NULL DEFAULT 0, events INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL, folded TEXT NOT NULL, model TEXT NOT NULL, seed INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, work REAL NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, code TEXT, message TEXT, notes TEXT NOT NULL DEFAULT '[]');
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_key ON jobs (owner, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, number);
CREATE TABLE IF NOT EXISTS inputs (
    job INTEGER NOT NULL REFERENCES jobs (number), place TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (job, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS inputs_by_hash ON inputs (sha256);
CREATE TABLE IF NOT EXISTS events (
    job INTEGER NOT NULL REFERENCES jobs (number), number INTEGER NOT NULL, kind TEXT NOT NULL, time REAL NOT NULL,
    attempt INTEGER NOT NULL, code TEXT, message TEXT, PRIMARY KEY (job, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job INTEGER NOT NULL REFERENCES jobs (number),
    place INTEGER NOT NULL, owner TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, created REAL NOT NULL, prompt TEXT NOT NULL, folded TEXT NOT NULL,
    model TEXT NOT NULL, seed INTEGER NOT NULL, starred INTEGER NOT NULL DEFAULT 0, board TEXT, deleted REAL,
    UNIQUE (job, place));
CREATE INDEX IF NOT EXISTS images_by_hash ON images (sha256);
CREATE INDEX IF NOT EXISTS images_by_owner ON images (owner, number);
CREATE INDEX IF NOT EXISTS images_in_trash ON images (deleted) WHERE deleted IS NOT NULL;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
"""


def prepare(database: Database) -> bool:
    """Make the tables where they are missing; whether the last end was clean, or this is the first beginning.

    Raises `ValueError`, without a path, for a journal of a newer Marmo and for a damaged one.
    """
    version = database.execute("PRAGMA user_version")[0][0]
    if version not in (0, VERSION):
        raise ValueError(f"the journal has version {version}, from a newer Marmo; this one reads version {VERSION}")
    was_clean = version == 0 or bool(database.execute("SELECT 1 FROM facts WHERE name = 'clean'"))
    if not was_clean:
        _check(database)
    database.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        database.execute(statement)
    database.execute("DELETE FROM facts WHERE name = 'clean'")
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")
    return was_clean


def close_clean(database: Database) -> None:
    """The last write of a server that has parked its jobs."""
    database.execute("INSERT OR REPLACE INTO facts VALUES ('clean', '1')")


def _check(database: Database) -> None:
    found = database.execute("PRAGMA integrity_check(1)")[0][0]
    if found != "ok":
        raise sqlite3.DatabaseError(str(found))
