"""The connection that writes to a store: how the file is opened, and what is written in one transaction."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import RunInUse, StoreClosed, StoreNotWritable
from gradwatch.store.creation import create, on_network_file_system, refuse_if_in_use, upgrade
from gradwatch.store.descriptors import Descriptors, identity_of, never_close, open_descriptors
from gradwatch.store.rows import Row
from gradwatch.store.schema import CURRENT, Layout

CACHED_KIB = 128
"""Pages of the file in memory, eight of them. A writer adds rows and seldom reads; SQLite's own limit, 2,000 KiB, is
soon full.

SQLite takes them as one block, of 20 pages where as many are allowed. With eight, a step takes the recorder's thread no
longer than with 20, as far as can be measured."""


class WritingConnection:
    """One connection, used by one thread at a time, whichever asks.

    Attributes:
        path: of the file.
        db: SQLite's connection, for statements within a transaction.
        journal_mode: SQLite's, "wal" or "truncate".
    """

    def __init__(self, path: Path) -> None:
        """Create the store, or open an existing one to continue it.

        Raises:
            StoreNotWritable: the folder can't be made or written.
            NotARun, StoreTooNew, StoreDamaged: a file stands there that can't be continued.
            RunInUse: another process writes to it.
        """
        self.path = path
        self.lock = threading.Lock()
        self._is_open = True
        _make_folder(path.parent)
        layout = _existing_layout(path)
        try:
            if layout is None and not create(path):
                layout = _existing_layout(path)
            before = open_descriptors()
            self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._file = identity_of(path)
            self.journal_mode = self._choose_journal()
            self.db.execute("pragma synchronous = normal")
            self.db.execute(f"pragma cache_size = {-CACHED_KIB}")
            self.db.execute("pragma shrink_memory")  # the block is taken anew, no larger than the limit
            self.db.execute("select 1 from sqlite_schema limit 1").fetchone()  # opens the log, if there is to be one
            self._descriptors = Descriptors(path, before)
            if layout is not None:
                self._continue(layout)
        except RunInUse:
            self.db.close()
            raise
        except (sqlite3.Error, OSError) as error:
            raise not_writable(path, error) from error

    def _choose_journal(self) -> str:
        wanted = "truncate" if on_network_file_system(self.path.parent) else "wal"
        (mode,) = self.db.execute(f"pragma journal_mode = {wanted}").fetchone()
        return str(mode)

    def _continue(self, layout: Layout) -> None:
        refuse_if_in_use(self.db, self.path)
        if layout != CURRENT:
            with self.transaction():
                upgrade(self.db, layout)

    def is_in_place(self) -> bool:
        """Whether the file still stands where it was opened: what is written to another would never be read."""
        return identity_of(self.path) == self._file

    def _check_descriptors(self) -> None:
        if not self._descriptors.are_intact():
            raise StoreClosed(
                f"the script closed the file descriptors of {str(self.path)!r}, as os.closerange does. Nothing more is"
                " written, for their numbers may belong to files of the script now."
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that follows, or nothing of it.

        Raises:
            StoreNotWritable: the disk does not take it now.
            StoreClosed: the script closed the descriptors of the file.
        """
        with self.reporting(), self.lock:  # in one statement, which an interrupt can't part
            try:
                self.db.execute("begin immediate")
                yield
                self._check_descriptors()  # it is the commit that writes
                self.db.execute("commit")
            finally:
                if self.db.in_transaction and self._descriptors.are_intact():  # it failed, or the commit did
                    self.db.execute("rollback")

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise StoreNotWritable for what the disk does not take now; even a read may have to write beside the file."""
        self._check_descriptors()
        try:
            yield
        except sqlite3.OperationalError as error:
            raise not_writable(self.path, error) from error

    def execute(self, query: str, *values: object) -> sqlite3.Cursor:
        """Run one statement."""
        return self.db.execute(query, values)

    def row(self, query: str, *values: object) -> Any:
        """The first row of a query; None if there is none."""
        return self.execute(query, *values).fetchone()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row], verb: str = "insert") -> None:
        """Put rows into a table, within a transaction."""
        if rows:
            self.db.executemany(_insertion(table, tuple(columns), verb), rows)

    def fill(self, table: str, column: str, rowid: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Write over a blob of zeros, within a transaction. SQLite would keep a copy of a value until the next one."""
        with self.db.blobopen(table, column, rowid) as blob:
            for piece in pieces:
                blob.write(piece)

    def close_alone(self) -> None:
        """Close the file so that it stands alone, without a log beside it."""
        if not self._descriptors.are_intact():
            never_close(self.db, self.path)
            return
        if self.journal_mode == "wal":
            try:
                self.db.execute("pragma busy_timeout = 0")
                self.db.execute("pragma journal_mode = delete")
            except sqlite3.OperationalError:
                pass  # a reader has it open; the log beside the file belongs to it and is read with it
        self._close()

    def close(self) -> None:
        """Close the file as it is."""
        if self._is_open and not self._descriptors.are_intact():
            never_close(self.db, self.path)
            return
        self._close()

    def _close(self) -> None:
        self._is_open = False
        self.db.close()


@functools.cache
def _insertion(table: str, columns: tuple[str, ...], verb: str) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join("?" * len(columns))
    return f"{verb} into {table} ({names}) values ({marks})"


def _existing_layout(path: Path) -> Layout | None:
    """The layout of the store that is there already; None if there is none."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    from gradwatch.store.opening import Database  # a new run opens no store

    db = Database(path)  # raises if anything is wrong with it
    db.close()
    return db.layout


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StoreNotWritable(
            f"The folder {str(folder)!r} can't be made: {error}. Give a folder that can be written."
        ) from error


def not_writable(path: Path, error: Exception) -> StoreNotWritable:
    """The error for a disk that does not take what is written."""
    return StoreNotWritable(
        f"{str(path)!r} can't be written: {error}. Give a folder that can be written, with space on its disk."
    )
