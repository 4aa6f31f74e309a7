"""The one writer of a run."""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradwatch.errors import RunInUse, StoreNotWritable, StoreRemoved
from gradwatch.record import RANK_STATS, STATS, WEIGHT_STATS, Event, JoinedParameters, ParameterInfo, StepRecord, merged
from gradwatch.store.checksums import of_blobs, of_row, of_step
from gradwatch.store.reader import StoreReader
from gradwatch.store.schema import (
    APPLICATION_ID,
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    FILE_NAME,
    PAGE_SIZE,
    PARTS,
    SCHEMA,
    SCHEMA_VERSION,
    SEALED_SINCE,
    STEP_COLUMNS,
    UPGRADES,
)

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "fuse.", "9p", "afs", "beegfs")


class StoreWriter:
    """Writes one run; made in the training thread, used by the recorder's."""

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
        self._lock = threading.Lock()
        _check_folder(folder)
        existed = self.path.exists() and self.path.stat().st_size > 0
        if existed:
            StoreReader(folder).close()  # says what is wrong with it, if anything is
        try:
            existed = existed or not self._create()
            self._open()
            if existed:
                self._refuse_if_in_use()
                self._upgrade()
        except RunInUse:
            self._db.close()
            raise
        except (sqlite3.Error, OSError) as error:
            raise _not_writable(self.path, error) from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        self._file = _identity(self.path)
        self.journal_mode = self._choose_journal()
        self._db.execute("pragma synchronous = normal")

    def _choose_journal(self) -> str:
        wanted = "truncate" if on_network_file_system(self.path.parent) else "wal"
        (mode,) = self._db.execute(f"pragma journal_mode = {wanted}").fetchone()
        return str(mode)

    def _create(self) -> bool:
        """Make the store aside and put it in its place whole, so that nobody ever finds a part of one.

        False where another process was first.
        """
        aside = self.path.with_name(f"{FILE_NAME}.{os.getpid()}.new")
        aside.unlink(missing_ok=True)
        db = sqlite3.connect(aside, isolation_level=None)
        try:
            db.execute(f"pragma page_size = {PAGE_SIZE}")
            db.execute("begin immediate")
            for statement in SCHEMA.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"pragma application_id = {APPLICATION_ID}")
            db.execute(f"pragma user_version = {SCHEMA_VERSION}")
            db.execute("commit")
        finally:
            db.close()
        return _put_in_place(aside, self.path)

    def _refuse_if_in_use(self) -> None:
        row = self._db.execute(
            "select pid, host, process from attempt where ended is null order by attempt desc limit 1"
        ).fetchone()
        # Within one process the open watches know better than a table that a fault left unfinished.
        if row is None or row[0] == os.getpid() or row[1] != socket.gethostname() or not _is_alive(row[0], row[2]):
            return
        raise RunInUse(
            f"{str(self.path.parent)!r} is being written by process {row[0]}. Give this training a run of"
            " its own, or end the other one first."
        )

    def _upgrade(self) -> None:
        """Bring the store of an earlier version to this one's; its rows stay as they are."""
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version < SCHEMA_VERSION:
            with self._transaction():
                for older in range(version, SCHEMA_VERSION):
                    for statement in UPGRADES[older]:
                        self._db.execute(statement)
                if version < SEALED_SINCE:
                    self._say_from_where_rows_are_sealed()
                self._db.execute(f"pragma user_version = {SCHEMA_VERSION}")

    def _say_from_where_rows_are_sealed(self) -> None:
        (last,) = self._db.execute("select coalesce(max(id), 0) from step").fetchone()
        row = ("sealed_from", str(last + 1))
        self._db.execute("insert into meta (key, value, crc) values (?, ?, ?)", (*row, of_row(row)))

    def begin_attempt(self, meta: dict[str, str], optimizers: dict[str, tuple[str, dict[str, Any]]]) -> int:
        """Open the next attempt; return the step after the last one recorded.

        ``optimizers`` maps each name to its class name and its defaults.

        Raises:
            RunInUse: another process was faster.
        """
        pid = os.getpid()
        with self._transaction():
            self._refuse_if_in_use()
            (last,) = self._db.execute("select max(attempt) from attempt").fetchone()
            (step,) = self._db.execute("select max(step) from step").fetchone()
            self.attempt = 0 if last is None else last + 1
            self._next_id = (self._db.execute("select max(id) from step").fetchone()[0] or 0) + 1
            next_step = 0 if step is None else step + 1
            self._db.execute(
                "insert into attempt (attempt, first_step, started, pid, host, process) values (?, ?, ?, ?, ?, ?)",
                (self.attempt, next_step, time.time(), pid, socket.gethostname(), _process_start(pid)),
            )
            self._seal_attempt()
            rows = [(key, value, of_row((key, value))) for key, value in meta.items()]
            self._db.executemany("insert or ignore into meta (key, value, crc) values (?, ?, ?)", rows)
        for name, (optimizer_class, settings) in optimizers.items():
            self.add_optimizer(name, optimizer_class, settings)
        return next_step

    def add_optimizer(self, name: str, optimizer_class: str, settings: dict[str, Any]) -> None:
        """Name an optimizer, with its class and its defaults."""
        with self._transaction():
            row = (name, optimizer_class, json.dumps(settings, default=str))
            columns = "(name, class, settings, crc)"
            self._db.execute(f"insert or replace into optimizer {columns} values (?, ?, ?, ?)", (*row, of_row(row)))

    def set_meta(self, key: str, value: str) -> None:
        """Say something of the run anew; what `begin_attempt` is given stays as it was said first."""
        with self._transaction():
            row = (key, value, of_row((key, value)))
            self._db.execute("insert or replace into meta (key, value, crc) values (?, ?, ?)", row)

    def set_first_step(self, step: int) -> None:
        """Say that the attempt begins at another step than the one after the last."""
        with self._transaction():
            self._update_attempt("first_step = ?", step)

    def _update_attempt(self, assignments: str, *values: object) -> None:
        self._db.execute(f"update attempt set {assignments} where attempt = ?", (*values, self.attempt))
        self._seal_attempt()

    def _seal_attempt(self) -> None:
        columns = ", ".join(ATTEMPT_COLUMNS)
        row = self._db.execute(f"select {columns} from attempt where attempt = ?", (self.attempt,)).fetchone()
        self._db.execute("update attempt set crc = ? where attempt = ?", (of_row(row), self.attempt))

    def add_parameters(self, optimizer: str, infos: Sequence[ParameterInfo], first: int = 0) -> None:
        """Name the parameters at positions ``first``, ``first`` + 1, ... of an optimizer's blobs."""
        with self._transaction():
            self._name(optimizer, infos, first)

    def append(
        self,
        records: Collection[StepRecord],
        events: Sequence[Event] = (),
        dropped: int = 0,
        joined: Sequence[JoinedParameters] = (),
    ) -> None:
        """Write records and events, and before them the names of parameters that joined, in one transaction.

        Raises:
            StoreNotWritable: the disk does not take them now; nothing was written, and they may be given again.
            StoreRemoved: the file is not in its place any more, so that nobody would ever read them.
        """
        steps, layers, weights, ranks = [], [], [], []
        for number, record in enumerate(records, self._next_id):
            steps.append((number, *_step_row(record, number)))
            if record.layers is not None:
                layers.append((number, *_blobs(record.layers, STATS, number, record.step)))
            if record.weights is not None:
                weights.append((number, *_blobs(record.weights, WEIGHT_STATS, number, record.step)))
            if record.ranks is not None:
                ranks.append((number, *_blobs(record.ranks, RANK_STATS, number, record.step)))
        self._check_place()
        try:
            with self._transaction():
                for parameters in joined:
                    self._name(parameters.optimizer, parameters.infos, parameters.first)
                self._insert("step", (*STEP_COLUMNS, "crc"), steps)
                self._insert("layer", (*STATS, "crc"), layers)
                self._insert("weight", (*WEIGHT_STATS, "crc"), weights)
                self._insert("rank", (*RANK_STATS, "crc"), ranks)
                for event in merged(events):
                    self._put_event(event)
                if dropped:
                    self._update_attempt("dropped = dropped + ?", dropped)
        except sqlite3.OperationalError as error:
            raise _not_writable(self.path, error) from error
        self._next_id += len(records)

    def _check_place(self) -> None:
        if _identity(self.path) != self._file:
            raise StoreRemoved(f"{str(self.path)!r} was removed or replaced while it was written.")

    def _name(self, optimizer: str, infos: Sequence[ParameterInfo], first: int) -> None:
        rows = [(optimizer, first + i, info.name, json.dumps(info.shape), info.dtype) for i, info in enumerate(infos)]
        columns = "(optimizer, position, name, shape, dtype, crc)"
        sealed = [(*row, of_row(row)) for row in rows]
        self._db.executemany(f"insert or replace into parameter {columns} values (?, ?, ?, ?, ?, ?)", sealed)

    def _insert(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        names = ", ".join(f'"{name}"' for name in ("id", *columns))
        marks = ", ".join("?" * (1 + len(columns)))
        self._db.executemany(f"insert into {table} ({names}) values ({marks})", rows)

    def _put_event(self, event: Event) -> None:
        """Write an event over the row of the same one, or after all others."""
        row = _event_row(event)
        columns = (*EVENT_COLUMNS, "crc")
        assignments = ", ".join(f'"{name}" = ?' for name in columns)
        same = "attempt = ? and optimizer = ? and kind = ? and step = ? and parameter is ?"
        if not self._db.execute(f"update event set {assignments} where {same}", (*row, *event.key)).rowcount:
            self._insert("event", columns, [(None, *row)])

    def end_attempt(self, reason: str) -> None:
        """Write how the attempt ended and close the file; it then stands alone, without a log beside it."""
        try:
            with self._transaction():
                self._update_attempt("ended = ?, reason = ?", time.time(), reason)
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
        """Close without a word, for a file that can't be written any more."""
        self._db.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db, self._lock)


def _put_in_place(aside: Path, path: Path) -> bool:
    """Give a file its name, unless another has it that is not empty."""
    if path.exists() and path.stat().st_size == 0:
        path.unlink()
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:
        aside.replace(path)  # a file system without links
        return True
    finally:
        aside.unlink(missing_ok=True)
    return True


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


def _step_row(record: StepRecord, number: int) -> tuple[Any, ...]:
    rates = record.learning_rates
    row = {
        "step": record.step,
        "optimizer": record.optimizer,
        "attempt": record.attempt,
        "wall_time": record.wall_time,
        "total_norm": record.total_norm,
        "max_norm": record.max_norm,
        "norm_type": record.norm_type,
        "clip_value": record.clip_value,
        "clip_coef": record.clip_coef,
        "cut_entries": record.cut_entries,
        "nonfinite": record.nonfinite,
        "loss": record.loss,
        "learning_rate": rates[0] if rates else None,
        "learning_rates": json.dumps(rates) if len(rates) > 1 else None,
        "loss_scale": record.loss_scale,
        "skipped": int(record.skipped),
        "clip_fault": record.clip_fault,
        "parts": sum(bit for name, bit in PARTS.items() if getattr(record, f"{name}s") is not None),
    }
    row["nan"] = _nan_names(row)
    return (*row.values(), of_step(row | {"id": number}))


def _event_row(event: Event) -> tuple[Any, ...]:
    row = {name: getattr(event, name) for name in EVENT_COLUMNS[:-2]}
    for name in ("observed", "limit"):  # as SQLite keeps them, without the sign of a zero
        row[name] = None if row[name] is None else float(row[name]) + 0.0
    values = (*row.values(), _nan_names(row))
    # A rank that is not known is left out of the checksum, which is then that of a schema without ranks.
    return (*values, event.rank, of_row(values if event.rank is None else (*values, event.rank)))


def _nan_names(row: dict[str, Any]) -> str | None:
    names = [name for name, value in row.items() if isinstance(value, float) and math.isnan(value)]
    return ",".join(names) or None


def _blobs(stats: object, names: Iterable[str], number: int, step: int) -> list[bytes | None]:
    columns = [getattr(stats, name) for name in names]
    blobs = [None if c is None else np.ascontiguousarray(c, dtype="<f4").tobytes() for c in columns]
    return [*blobs, of_blobs(number, step, blobs)]


def _check_folder(folder: Path) -> None:
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


def on_network_file_system(folder: Path) -> bool:
    """Whether a folder lies where SQLite's write-ahead log is not safe, as far as the system tells."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return False
    here = str(folder.resolve())
    mounts = [line.split(" ") for line in lines]
    inside = [m for m in mounts if here == m[1] or here.startswith(m[1].rstrip("/") + "/")]
    return bool(inside) and max(inside, key=lambda m: len(m[1]))[2].startswith(_NETWORK)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path; None: none that can be seen."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _process_start(pid: int) -> str | None:
    """When a process started, in the system's own count, so that a reused pid is not mistaken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_alive(pid: int, started: str | None) -> bool:
    if os.name == "nt":
        return False  # there os.kill(pid, 0) would end the process, and nothing else tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return started is None or _process_start(pid) in (started, None)
