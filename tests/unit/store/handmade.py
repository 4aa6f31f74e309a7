"""Stores as a stranger could make them: changed by SQL, with checksums that are right for what they hold."""

import contextlib
import shutil
import sqlite3

from gradwatch.store.checksums import blobs_crc, row_crc, step_crc, values_crc
from gradwatch.store.schema import (
    ATTEMPT_COLUMNS,
    BLOBS,
    EVENT_COLUMNS,
    FILE_NAME,
    OPTIMIZER_COLUMNS,
    PARAMETER_COLUMNS,
    STEP_COLUMNS,
)

KEYS = {
    "meta": ("key",),
    "attempt": ("attempt",),
    "optimizer": ("name",),
    "parameter": ("optimizer", "position"),
    "step": ("id",),
    "layer": ("id",),
    "weight": ("id",),
    "rank": ("id",),
    "optimizer_update": ("id",),
    "accumulation": ("id",),
    "magnitude": ("id",),
    "sentinel": ("id",),
    "event": ("id",),
}
VALUES = {
    "meta": ("key", "value"),
    "attempt": ATTEMPT_COLUMNS,
    "optimizer": OPTIMIZER_COLUMNS,
    "parameter": PARAMETER_COLUMNS,
    "step": STEP_COLUMNS,
    **BLOBS,
    "event": EVENT_COLUMNS,
}


def copied(run, folder):
    """A copy of a run that may be changed."""
    folder.mkdir(parents=True)
    shutil.copy(run / FILE_NAME, folder / FILE_NAME)
    return folder


@contextlib.contextmanager
def opened(folder):
    """The store of a run for changes by SQL, in one file when closed."""
    db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def change(folder, statement, *values):
    """Run a statement; the checksums stay as they are."""
    with opened(folder) as db:
        db.execute(statement, values)


def forge(folder, statement, *values):
    """Run a statement and make the checksums of all rows fit."""
    with opened(folder) as db:
        db.execute("pragma synchronous = off")
        db.execute("begin")
        db.execute(statement, values)
        for table in VALUES:
            renew_checksums(db, table)
        db.execute("commit")


def renew_checksums(db, table):
    key, columns = KEYS[table], VALUES[table]
    names = [*key, *columns]
    selected = ", ".join(f'{table}."{name}"' for name in names)
    if table in BLOBS:
        query = f"select {selected}, step.step from {table} left join step on step.id = {table}.id"
    else:
        query = f"select {selected}, 0 from {table}"
    for row in db.execute(query).fetchall():
        own, values, step = row[: len(key)], row[len(key) : -1], row[-1]
        number = own[0] if key == ("id",) or table == "attempt" else 0
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # no checksum is right for such a value
            if table == "step":
                crc = step_crc({"id": own[0], **dict(zip(columns, values, strict=True))})
            elif table in BLOBS:
                crc = blobs_crc(own[0], step, values)
            else:
                crc = values_crc(values[:-1] if table == "event" and values[-1] is None else values)
            which = " and ".join(f"{name} is ?" for name in key)
            bound = row_crc(table, number, crc)
            db.execute(f"update {table} set crc = ?, row_crc = ? where {which}", (crc, bound, *own))
