"""Rewrites a store more compactly, and replaces the old file once every row is verified.

The old file stays complete until one `os.replace` gives its name to the new one. An interruption at any moment
therefore leaves one of the two, and both hold the same rows.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from gradwatch.errors import GradwatchError, RunInUse, StoreDamaged, StoreNotWritable
from gradwatch.store.reader import StoreReader

SUFFIX = ".compact"
"""Of the new file, before it gets the name of the old one."""

PAGE_SIZES = (4096, 16384, 65536)
"""The best one depends on the bytes of a row, so all are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What compacting a store did.

    Attributes:
        rows: compared one by one, of all tables.
        before, after: bytes of the store with its log; equal if a new file would not be smaller.
    """

    rows: int
    before: int
    after: int


def compact(folder: Path) -> Compacted:
    """Make the store of a run that has ended as small as it can be without a change to any row.

    Raises:
        RunNotFound, NotARun, StoreTooNew: there is no readable store.
        RunInUse: the run is being recorded, or another program has its store open.
        StoreDamaged: a table can't be read to its end, or the new file differs from the old one. The old one stays.
        StoreNotWritable: there is no room, or no right to write.

    >>> compact(example_run).rows > 400
    True
    """
    with StoreReader(folder) as reader:
        if reader.is_being_written():
            raise RunInUse(f"{str(folder)!r} is being recorded. End its training first.")
        path = reader.path.resolve()
    before = sum(size for suffix in ("", "-wal") if (size := _size(path.with_name(path.name + suffix))))
    new = path.with_name(path.name + SUFFIX)
    try:
        with _locked(path) as db, _removed_at_the_end(new):
            _write_smallest(db, new)
            rows = _compare(db, new)
            if _size(new) >= before:
                return Compacted(rows=rows, before=before, after=_size(path))
            _put_in_place(db, new, path)
    except (sqlite3.Error, OSError) as error:
        raise _named(path, error) from error
    return Compacted(rows=rows, before=before, after=_size(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[sqlite3.Connection]:
    """The store without a log beside it, for this process alone."""
    db = sqlite3.connect(path, isolation_level=None, timeout=1)
    try:
        db.text_factory = bytes  # a damaged text is copied as it is
        # A log left there would be taken for that of the new file.
        db.execute("pragma journal_mode = delete")
        db.execute("pragma main.locking_mode = exclusive")
        db.execute("begin exclusive")
        db.execute("commit")  # the lock stays
        if db.execute("pragma journal_mode").fetchone() == (b"wal",):
            raise sqlite3.OperationalError("database is locked: another program began to write")
        yield db
    finally:
        db.close()


@contextlib.contextmanager
def _removed_at_the_end(new: Path) -> Iterator[None]:
    """Remove what an earlier call that was killed has left, and what this one leaves."""
    leftovers = [new, *(new.with_name(new.name + suffix) for suffix in ("-journal", ".best"))]
    for file in leftovers:
        file.unlink(missing_ok=True)
    try:
        yield
    finally:
        for file in leftovers:
            file.unlink(missing_ok=True)


def _write_smallest(db: sqlite3.Connection, new: Path) -> None:
    best = new.with_name(new.name + ".best")
    for page_size in PAGE_SIZES:
        db.execute(f"pragma page_size = {page_size}")
        db.execute("vacuum into ?", (str(new),))
        if not best.exists() or _size(new) < _size(best):
            new.replace(best)
        else:
            new.unlink()
    best.replace(new)


def _compare(db: sqlite3.Connection, new: Path) -> int:
    """Compare the two files row for row and return how many rows there are."""
    other = sqlite3.connect(new, isolation_level=None)
    try:
        other.text_factory = bytes
        for question in ("pragma application_id", "pragma user_version", "select type, name, sql from sqlite_master"):
            if sorted(db.execute(question)) != sorted(other.execute(question)):
                raise StoreDamaged(f"{str(new)!r} differs from the store in {question!r}; the store stays as it is.")
        tables = [name.decode() for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        rows = sum(_compare_table(db, other, table) for table in tables)
        if list(other.execute("pragma quick_check")) != [(b"ok",)]:
            raise StoreDamaged(f"{str(new)!r} is not whole; the store stays as it is.")
        return rows
    finally:
        other.close()


def _compare_table(db: sqlite3.Connection, other: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    found = [one.execute(f'select * from "{quoted}"') for one in (db, other)]
    rows = 0
    for first, second in zip_longest(*found):
        # As bytes: 0.0 and -0.0, 1 and 1.0 are equal to Python.
        if marshal.dumps(first, 2) != marshal.dumps(second, 2):
            raise StoreDamaged(f"row {rows + 1} of table {table!r} differs in the new file; the store stays as it is.")
        rows += 1
    return rows


def _put_in_place(db: sqlite3.Connection, new: Path, path: Path) -> None:
    new.chmod(path.stat().st_mode & 0o7777)
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    if os.name == "nt":  # a file that is open can't be replaced there
        db.close()
    new.replace(path)
    if os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _named(path: Path, error: Exception) -> GradwatchError:
    if "locked" in str(error):
        return RunInUse(f"{str(path.parent)!r} is open in another program ({error}). Close it first.")
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return StoreDamaged(f"{str(path)!r} can't be compacted: {error}. It stays as it is.")
    return StoreNotWritable(f"{str(path)!r} can't be compacted: {error}. It stays as it is.")
