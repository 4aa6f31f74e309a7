"""The one writer of a run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import StoreNotWritable, StoreRemoved
from gradwatch.record import Event, JoinedParameters, ParameterInfo, StepRecord, merged
from gradwatch.store.connection import WritingConnection
from gradwatch.store.creation import next_id, put_row_counts, refuse_if_in_use
from gradwatch.store.digests import Digest, RecordDigesters
from gradwatch.store.next_steps import EVERY, NextSteps
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
    DIGEST_COLUMNS,
    EVENT_COLUMNS,
    FILE_NAME,
    NEXT_STEPS,
    OPTIMIZER_COLUMNS,
    PARAMETER_COLUMNS,
)


class StoreWriter:
    """Writes one run; made in the training thread, used by the recorder's.

    Attributes:
        attempt: the number of the attempt that writes.
    """

    def __init__(self, folder: Path) -> None:
        """Create the store, or open an existing one to continue it.

        Raises:
            StoreNotWritable: the folder can't be made or written.
            NotARun, StoreTooNew, StoreDamaged: a file stands there that can't be continued.
            RunInUse: another process writes to it.
        """
        self._file = WritingConnection(folder / FILE_NAME)
        self.attempt = 0
        self._has_begun = False  # the attempt; perhaps in vain
        self._next_id = 1
        self._next_steps = NextSteps()
        self._kept_up_to = 0  # the last id of what the store has of them
        self._digesters = RecordDigesters()

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._file.path

    @property
    def journal_mode(self) -> str:
        """SQLite's, "wal" or "truncate"."""
        return self._file.journal_mode

    def begin_attempt(self, meta: Mapping[str, str], optimizers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> int:
        """Open the next attempt; return the step after the last one recorded.

        Args:
            meta: facts about the run; one that is already known stays as it is.
            optimizers: the class name and the defaults of each, by name.

        Raises:
            RunInUse: another process was faster.
            StoreNotWritable: the disk does not take it now.
        """
        pid = os.getpid()
        earlier = self._read_next_steps()
        with self._file.transaction():
            refuse_if_in_use(self._file.db, self.path)
            (last,) = self._file.row("select max(attempt) from attempt")
            self.attempt = 0 if last is None else last + 1
            self._has_begun = True
            self._next_id = next_id(self._file.db)
            if earlier.last_id != self._next_id - 1:  # another process made an attempt in the meantime
                earlier = self._read_next_steps()
            self._next_steps = earlier
            next_step = max(earlier.steps.values(), default=0)
            self._file.execute(
                "insert into attempt (attempt, first_step, started, pid, host, process) values (?, ?, ?, ?, ?, ?)",
                *(self.attempt, next_step, time.time(), pid, text(socket.gethostname()), process_start(pid)),
            )
            self._renew_checksums_of_attempt()
            self._file.insert("meta", _META, [_meta_row(*pair) for pair in meta.items()], "insert or ignore")
            for name, (optimizer_class, settings) in optimizers.items():
                self._put_optimizer(name, optimizer_class, settings)
            self._put_next_steps(earlier)
            self._count_rows()
        return next_step

    def _read_next_steps(self) -> NextSteps:
        with self._file.reporting():
            last_id = next_id(self._file.db) - 1
        if not last_id:
            return NextSteps()
        from gradwatch.store.reader import StoreReader  # a new run reads nothing

        with StoreReader(self.path) as reader:
            return NextSteps(last_id=last_id, steps=reader.next_steps())

    def _put_next_steps(self, known: NextSteps) -> None:
        self._file.insert("meta", _META, [_meta_row(NEXT_STEPS, known.format())], "insert or replace")
        self._kept_up_to = known.last_id

    def next_step(self, optimizer: str) -> int:
        """The number after the last step of an optimizer in the store, 0 if it made none."""
        return self._next_steps.steps.get(text(optimizer), 0)

    def knows(self, optimizer: str) -> bool:
        """Whether the store has a row of an optimizer, in whichever table."""
        name = text(optimizer)
        queries = ["select 1 from optimizer where name = ?", "select 1 from parameter where optimizer = ? limit 1"]
        with self._file.reporting(), self._file.lock:
            if any(self._file.row(query, name) for query in queries):
                return True
            return name in self._next_steps.steps

    def add_optimizer(self, name: str, optimizer_class: str, settings: Mapping[str, Any]) -> None:
        """Add an optimizer, with the name of its class and its defaults."""
        with self._file.transaction():
            self._put_optimizer(name, optimizer_class, settings)
            self._count_rows()

    def _put_optimizer(self, name: str, optimizer_class: str, settings: Mapping[str, Any]) -> None:
        row = with_checksums("optimizer", (text(name), text(optimizer_class), json.dumps(settings, default=str)))
        columns = (*OPTIMIZER_COLUMNS, *CHECKSUMS)
        self._file.insert("optimizer", columns, [row], "insert or ignore")
        # "insert or replace" would put it behind the others, and the first one is what every view shows.
        assignments = ", ".join(f"{column} = ?" for column in columns[1:])
        self._file.execute(f"update optimizer set {assignments} where name = ?", *row[1:], row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a fact about the run, whether or not it was known.

        Raises:
            StoreNotWritable: the disk does not take it now.
        """
        with self._file.transaction():
            self._file.insert("meta", _META, [_meta_row(key, value)], "insert or replace")
            self._count_rows()

    def set_first_step(self, step: int) -> None:
        """Say that the attempt begins with another step than the one after the last."""
        with self._file.transaction():
            self._update_attempt("first_step = ?", step)

    def add_parameters(self, optimizer: str, infos: Sequence[ParameterInfo], first: int = 0) -> None:
        """Name the parameters at positions ``first``, ``first`` + 1, ... of an optimizer's blobs."""
        with self._file.transaction():
            self._put_parameters(optimizer, infos, first)
            self._count_rows()

    def _put_parameters(self, optimizer: str, infos: Sequence[ParameterInfo], first: int) -> None:
        rows = parameter_rows(optimizer, infos, first)
        self._file.insert("parameter", (*PARAMETER_COLUMNS, *CHECKSUMS), rows, "insert or replace")

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
        digests = self._digesters.add(records, rows["step"])
        if not self._file.is_in_place():
            raise StoreRemoved(f"{str(self.path)!r} was removed or replaced while it was written.")
        try:
            with self._file.transaction():
                for parameters in joined:
                    self._put_parameters(parameters.optimizer, parameters.infos, parameters.first)
                for table, columns in STEP_ROW_COLUMNS.items():
                    self._file.insert(table, columns, rows[table])
                self._put_digests(digests)
                for event in merged(events):
                    self._put_event(event)
                if dropped:
                    self._update_attempt("dropped = dropped + ?", dropped)
                next_steps = self._next_steps.after(records, self._next_id - 1 + len(records))
                if next_steps.last_id >= self._kept_up_to + EVERY:
                    self._put_next_steps(next_steps)
                if events or joined:
                    self._count_rows(len(records))
        except BaseException:
            self._digesters.clear()  # they have seen rows that are not there
            raise
        self._next_id += len(records)
        self._next_steps = next_steps
        return self._next_id - 1

    def forget(self, optimizer: str) -> None:
        """Hold nothing more of an optimizer that makes no more steps."""
        self._digesters.forget(optimizer)

    def _put_digests(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            if digest.replaces is not None:
                self._file.execute("delete from digest where last_id = ?", digest.replaces)
            rows = [digest_row(digest)]
            self._file.insert("digest", (*DIGEST_COLUMNS, *CHECKSUMS), rows, "insert or replace")

    def _put_event(self, event: Event) -> None:
        """Write an event over the row of the same one, or after all others."""
        attempt, optimizer, kind, step, parameter = event.key
        key = (attempt, text(optimizer), text(kind), step, None if parameter is None else text(parameter))
        same = "attempt = ? and optimizer = ? and kind = ? and step = ? and parameter is ?"
        found = self._file.row(f"select id from event where {same}", *key)
        (last,) = self._file.row("select coalesce(max(id), 0) from event")
        row = event_row(event, found[0] if found else last + 1)
        self._file.insert("event", ("id", *EVENT_COLUMNS, *CHECKSUMS), [row], "insert or replace")

    def save_detector_state(
        self, optimizer: str, last_id: int, version: str, state: Sequence[bytes | memoryview]
    ) -> None:
        """Keep the state of an optimizer's detectors, instead of the one before.

        Args:
            optimizer: its name.
            last_id: the id of the last step that they have seen, as `append` returned it.
            version: of the detectors.
            state: anything, in pieces; the reader checks that it is as it was.

        Raises:
            StoreNotWritable: the disk does not take it now.
        """
        crc_of_state = functools.reduce(lambda crc, piece: zlib.crc32(piece, crc), state, 0)
        values = with_checksums("detector_state", (text(optimizer), last_id, version, crc_of_state))
        size = sum(memoryview(piece).nbytes for piece in state)
        with self._file.transaction():
            at = self._file.execute(
                "insert or replace into detector_state (optimizer, last_id, version, state, crc, row_crc)"
                " values (?, ?, ?, zeroblob(?), ?, ?)",
                *(*values[:3], size, *values[-2:]),
            ).lastrowid
            assert at is not None
            self._file.fill("detector_state", "state", at, state)
            self._count_rows()

    def end_attempt(self, reason: str) -> None:
        """Write how the attempt ended and close the file; it then stands alone, without a log beside it.

        Raises:
            StoreNotWritable: the disk does not take it now; the file is closed as it is.
        """
        try:
            with self._file.transaction():
                self._update_attempt("ended = ?, reason = ?", time.time(), text(reason))
                self._put_next_steps(self._next_steps)
                self._put_digests(self._digesters.finish(self._next_id - 1))
                self._count_rows()
        except StoreNotWritable:
            self._file.close()
            raise
        self._file.close_alone()

    def abandon(self) -> None:
        """Close without an end, for a file that can no longer be written."""
        self._file.close()

    def abort(self) -> None:
        """End by a fault, as far as the file still takes that: without an end a run looks like one that is written."""
        with contextlib.suppress(Exception):
            if self._has_begun:
                self.end_attempt("fault")
        self._file.close()

    def _update_attempt(self, assignments: str, *values: object) -> None:
        self._file.execute(f"update attempt set {assignments} where attempt = ?", *values, self.attempt)
        self._renew_checksums_of_attempt()

    def _renew_checksums_of_attempt(self) -> None:
        columns = ", ".join(ATTEMPT_COLUMNS)
        values = self._file.row(f"select {columns} from attempt where attempt = ?", self.attempt)
        checksums = with_checksums("attempt", values, self.attempt)[-2:]
        self._file.execute("update attempt set crc = ?, row_crc = ? where attempt = ?", *checksums, self.attempt)

    def _count_rows(self, new_steps: int = 0) -> None:
        put_row_counts(self._file.db, self._next_id - 1 + new_steps)


_META = ("key", "value", *CHECKSUMS)


def _meta_row(key: str, value: str) -> Row:
    return with_checksums("meta", (text(key), text(value)))
