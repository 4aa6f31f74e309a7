"""The one writer of a run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import RunInUse, StoreNotWritable, StoreRemoved
from gradwatch.record import Event, JoinedParameters, ParameterInfo, StepRecord, merged
from gradwatch.store.creation import (
    count_rows,
    create,
    next_id,
    on_network_file_system,
    refuse_if_in_use,
    upgrade,
)
from gradwatch.store.digests import Digest, RecordDigester
from gradwatch.store.opening import Database
from gradwatch.store.processes import process_start
from gradwatch.store.rows import (
    STEP_ROW_COLUMNS,
    Row,
    digest_row,
    event_row,
    parameter_rows,
    step_rows,
    text,
    with_checksums,
)
from gradwatch.store.schema import (
    ATTEMPT_COLUMNS,
    CHECKSUMS,
    CURRENT,
    DIGEST_COLUMNS,
    EVENT_COLUMNS,
    FILE_NAME,
    OPTIMIZER_COLUMNS,
    PARAMETER_COLUMNS,
    ROW_COUNTS,
    Layout,
)


class StoreWriter:
    """Writes one run; made in the training thread, used by the recorder's.

    Attributes:
        path: of the file.
        attempt: the number of the attempt that writes.
        journal_mode: SQLite's, "wal" or "truncate".
    """

    def __init__(self, folder: Path) -> None:
        """Create the store, or open an existing one to continue it.

        Raises:
            StoreNotWritable: the folder can't be made or written.
            NotARun, StoreTooNew, StoreDamaged: a file stands there that can't be continued.
            RunInUse: another process writes to it.
        """
        self.path = folder / FILE_NAME
        self.attempt = 0
        self._next_id = 1
        self._names_in_steps: set[object] | None = None
        self._digesters: dict[str, RecordDigester] = {}
        self._lock = threading.Lock()
        _make_folder(folder)
        layout = self._existing_layout()
        try:
            if layout is None and not create(self.path):
                layout = self._existing_layout()
            self._open()
            if layout is not None:
                refuse_if_in_use(self._db, self.path)
                if layout != CURRENT:
                    with self._transaction():
                        upgrade(self._db, layout)
        except RunInUse:
            self._db.close()
            raise
        except (sqlite3.Error, OSError) as error:
            raise _not_writable(self.path, error) from error

    def _existing_layout(self) -> Layout | None:
        """The layout of the store that is there already; None if there is none."""
        if not self.path.exists() or (self.path.is_file() and self.path.stat().st_size == 0):
            return None
        db = Database(self.path)  # raises if anything is wrong with it
        db.close()
        return db.layout

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        self._file = _identity(self.path)
        self.journal_mode = self._choose_journal()
        self._db.execute("pragma synchronous = normal")

    def _choose_journal(self) -> str:
        wanted = "truncate" if on_network_file_system(self.path.parent) else "wal"
        (mode,) = self._db.execute(f"pragma journal_mode = {wanted}").fetchone()
        return str(mode)

    def begin_attempt(self, meta: Mapping[str, str], optimizers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> int:
        """Open the next attempt; return the step after the last one recorded.

        Args:
            meta: facts about the run; one that is already known stays as it is.
            optimizers: the class name and the defaults of each, by name.

        Raises:
            RunInUse: another process was faster.
        """
        pid = os.getpid()
        with self._transaction():
            refuse_if_in_use(self._db, self.path)
            (last,) = self._db.execute("select max(attempt) from attempt").fetchone()
            (step,) = self._db.execute("select max(step) from step").fetchone()
            self.attempt = 0 if last is None else last + 1
            self._next_id = next_id(self._db)
            next_step = 0 if step is None else step + 1
            self._db.execute(
                "insert into attempt (attempt, first_step, started, pid, host, process) values (?, ?, ?, ?, ?, ?)",
                (self.attempt, next_step, time.time(), pid, text(socket.gethostname()), process_start(pid)),
            )
            self._renew_checksums_of_attempt()
            self._insert("meta", _META, [_meta_row(*pair) for pair in meta.items()], "insert or ignore")
            for name, (optimizer_class, settings) in optimizers.items():
                self._put_optimizer(name, optimizer_class, settings)
            self._count_rows()
        return next_step

    def knows(self, optimizer: str) -> bool:
        """Whether the store has a row of an optimizer, in whichever table."""
        name = text(optimizer)
        queries = ["select 1 from optimizer where name = ?", "select 1 from parameter where optimizer = ? limit 1"]
        with self._lock:
            if any(self._db.execute(query, (name,)).fetchone() for query in queries):
                return True
            if self._names_in_steps is None:  # steps of this attempt come after a row in table optimizer
                self._names_in_steps = {row[0] for row in self._db.execute("select distinct optimizer from step")}
            return name in self._names_in_steps

    def add_optimizer(self, name: str, optimizer_class: str, settings: Mapping[str, Any]) -> None:
        """Add an optimizer, with the name of its class and its defaults."""
        with self._transaction():
            self._put_optimizer(name, optimizer_class, settings)
            self._count_rows()

    def _put_optimizer(self, name: str, optimizer_class: str, settings: Mapping[str, Any]) -> None:
        row = with_checksums("optimizer", (text(name), text(optimizer_class), json.dumps(settings, default=str)))
        self._insert("optimizer", (*OPTIMIZER_COLUMNS, *CHECKSUMS), [row], "insert or replace")

    def set_meta(self, key: str, value: str) -> None:
        """Set a fact about the run, whether or not it was known.

        Raises:
            StoreNotWritable: the disk does not take it now.
        """
        with _reporting(self.path), self._transaction():
            self._insert("meta", _META, [_meta_row(key, value)], "insert or replace")
            self._count_rows()

    def set_first_step(self, step: int) -> None:
        """Say that the attempt begins with another step than the one after the last."""
        with self._transaction():
            self._update_attempt("first_step = ?", step)

    def add_parameters(self, optimizer: str, infos: Sequence[ParameterInfo], first: int = 0) -> None:
        """Name the parameters at positions ``first``, ``first`` + 1, ... of an optimizer's blobs."""
        with self._transaction():
            self._put_parameters(optimizer, infos, first)
            self._count_rows()

    def _put_parameters(self, optimizer: str, infos: Sequence[ParameterInfo], first: int) -> None:
        rows = parameter_rows(optimizer, infos, first)
        self._insert("parameter", (*PARAMETER_COLUMNS, *CHECKSUMS), rows, "insert or replace")

    def append(
        self,
        records: Collection[StepRecord],
        events: Sequence[Event] = (),
        dropped: int = 0,
        joined: Sequence[JoinedParameters] = (),
    ) -> int:
        """Write records and events, and before them the parameters that joined, in one transaction.

        Args:
            records: of steps, in the order in which they were made.
            events: new ones, and those that are to replace one with the same key.
            dropped: steps that were lost since the last call.
            joined: parameters that the records have and earlier ones have not.

        Returns:
            The id of the last record in the store.

        Raises:
            StoreNotWritable: the disk does not take them now; nothing was written, and they may be given again.
            StoreRemoved: the file is no longer in its place, so that nothing written to it would ever be read.
        """
        rows = step_rows(records, self._next_id)
        digests = self._digest(records, rows["step"])
        if _identity(self.path) != self._file:
            raise StoreRemoved(f"{str(self.path)!r} was removed or replaced while it was written.")
        try:
            with _reporting(self.path), self._transaction():
                for parameters in joined:
                    self._put_parameters(parameters.optimizer, parameters.infos, parameters.first)
                for table, columns in STEP_ROW_COLUMNS.items():
                    self._insert(table, columns, rows[table])
                self._insert("digest", (*DIGEST_COLUMNS, *CHECKSUMS), [digest_row(digest) for digest in digests])
                for event in merged(events):
                    self._put_event(event)
                if dropped:
                    self._update_attempt("dropped = dropped + ?", dropped)
                if events or joined:
                    self._count_rows(len(records))
        except BaseException:
            self._digesters.clear()  # they have seen rows that are not there
            raise
        self._next_id += len(records)
        return self._next_id - 1

    def _digest(self, records: Iterable[StepRecord], rows: Iterable[Row]) -> list[Digest]:
        """The digests that become complete with these records, given with their rows of table ``step``."""
        complete = []
        for record, row in zip(records, rows, strict=True):
            digester = self._digesters.setdefault(record.optimizer, RecordDigester())
            digester.add(row, record)
            if digester.is_full:
                del self._digesters[record.optimizer]
                with contextlib.suppress(ValueError):  # without one, readers read the rows
                    complete.append(digester.finish())
        return complete

    def _put_event(self, event: Event) -> None:
        """Write an event over the row of the same one, or after all others."""
        attempt, optimizer, kind, step, parameter = event.key
        key = (attempt, text(optimizer), text(kind), step, None if parameter is None else text(parameter))
        same = "attempt = ? and optimizer = ? and kind = ? and step = ? and parameter is ?"
        found = self._db.execute(f"select id from event where {same}", key).fetchone()
        (last,) = self._db.execute("select coalesce(max(id), 0) from event").fetchone()
        row = event_row(event, found[0] if found else last + 1)
        self._insert("event", ("id", *EVENT_COLUMNS, *CHECKSUMS), [row], "insert or replace")

    def save_detector_state(self, optimizer: str, last_id: int, version: str, state: bytes) -> None:
        """Keep the state of an optimizer's detectors, instead of the one before.

        Args:
            optimizer: its name.
            last_id: the id of the last step that they have seen, as `append` returned it.
            version: of the detectors.
            state: anything; the reader checks that it is as it was.

        Raises:
            StoreNotWritable: the disk does not take it now.
        """
        *values, crc, bound = with_checksums("detector_state", (text(optimizer), last_id, version, zlib.crc32(state)))
        row = (*values[:3], state, crc, bound)
        with _reporting(self.path), self._transaction():
            columns = ("optimizer", "last_id", "version", "state", *CHECKSUMS)
            self._insert("detector_state", columns, [row], "insert or replace")
            self._count_rows()

    def end_attempt(self, reason: str) -> None:
        """Write how the attempt ended and close the file; it then stands alone, without a log beside it."""
        try:
            with self._transaction():
                self._update_attempt("ended = ?, reason = ?", time.time(), text(reason))
                self._count_rows()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise _not_writable(self.path, error) from error
        if self.journal_mode == "wal":
            try:
                self._db.execute("pragma busy_timeout = 0")
                self._db.execute("pragma journal_mode = delete")
            except sqlite3.OperationalError:
                pass  # a reader has it open; the log beside the file belongs to it and is read with it
        self._db.close()

    def abandon(self) -> None:
        """Close without an end, for a file that can no longer be written."""
        self._db.close()

    def _update_attempt(self, assignments: str, *values: object) -> None:
        self._db.execute(f"update attempt set {assignments} where attempt = ?", (*values, self.attempt))
        self._renew_checksums_of_attempt()

    def _renew_checksums_of_attempt(self) -> None:
        columns = ", ".join(ATTEMPT_COLUMNS)
        values = self._db.execute(f"select {columns} from attempt where attempt = ?", (self.attempt,)).fetchone()
        checksums = with_checksums("attempt", values, self.attempt)[-2:]
        self._db.execute("update attempt set crc = ?, row_crc = ? where attempt = ?", (*checksums, self.attempt))

    def _count_rows(self, new_steps: int = 0) -> None:
        """Write how many rows there are now, so that rows lost later are noticed."""
        # First the row itself, for it counts.
        self._db.execute("insert or ignore into meta (key) values (?)", (ROW_COUNTS,))
        _, value, crc, bound = _meta_row(ROW_COUNTS, count_rows(self._db, self._next_id - 1 + new_steps))
        query = "update meta set value = ?, crc = ?, row_crc = ? where key = ?"
        self._db.execute(query, (value, crc, bound, ROW_COUNTS))

    def _insert(self, table: str, columns: Sequence[str], rows: Sequence[Row], verb: str = "insert") -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join("?" * len(columns))
        self._db.executemany(f"{verb} into {table} ({names}) values ({marks})", rows)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db, self._lock)


_META = ("key", "value", *CHECKSUMS)


def _meta_row(key: str, value: str) -> Row:
    return with_checksums("meta", (text(key), text(value)))


class _Transaction:
    """One at a time, whichever thread asks."""

    def __init__(self, db: sqlite3.Connection, lock: threading.Lock) -> None:
        self._db, self._lock = db, lock

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._db.execute("begin immediate")
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("commit")
        finally:
            try:
                if self._db.in_transaction:  # it failed, or the commit did
                    self._db.execute("rollback")
            finally:
                self._lock.release()


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Raise StoreNotWritable for what the disk does not take now."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _not_writable(path, error) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StoreNotWritable(
            f"The folder {str(folder)!r} can't be made: {error}. Give a folder that can be written."
        ) from error


def _not_writable(path: Path, error: Exception) -> StoreNotWritable:
    return StoreNotWritable(
        f"{str(path)!r} can't be written: {error}. Give a folder that can be written, with space on its disk."
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path; None if there is none that can be seen."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
