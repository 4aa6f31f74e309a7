"""Readers of a run, finished or being written."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from gradwatch.errors import GradwatchError, NotARun, RunNotFound, StoreDamaged, StoreTooNew
from gradwatch.record import STATS, WEIGHT_STATS, Event, Floats, LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.store.schema import APPLICATION_ID, EVENT_COLUMNS, FILE_NAME, SCHEMA_VERSION, STEP_COLUMNS

_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One process's stay at a run."""

    attempt: int
    first_step: int
    started: float
    ended: float | None
    reason: str | None
    dropped: int


class StoreReader:
    """Reads one run, also while it is written. Never creates or changes a file."""

    def __init__(self, folder: Path) -> None:
        """Open a run's folder, or its store file itself.

        Raises:
            RunNotFound: there is no store.
            NotARun: the file is no store of gradwatch's.
            StoreTooNew: its schema is newer than this version's.
            StoreDamaged: it can't be read.
        """
        self.path = folder if folder.is_file() else folder / FILE_NAME
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        _check_file(self.path)
        try:
            self._db = self._connect()
            self._check_schema()
            self._step_columns = self._columns("step", STEP_COLUMNS)
            self._event_columns = self._columns("event", EVENT_COLUMNS)
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()

    def _connect(self) -> sqlite3.Connection:
        """A connection that leaves the run's folder as it is.

        SQLite would create a shared-memory file beside a store with a write-ahead log. Where that
        is there already (a writer is alive, or was killed) it is used; where there is no log the
        file is complete; a log alone, or a journal that a killed writer left, is read in a copy.
        """
        journal = Path(f"{self.path}-journal")
        if journal.exists() and journal.stat().st_size:
            return self._connect_to_a_copy(journal)
        log, shared = Path(f"{self.path}-wal"), Path(f"{self.path}-shm")
        if _uses_log(self.path) and not log.exists():
            return _read_only(self.path, "immutable=1")
        if log.exists() and not (shared.exists() and os.access(self.path.parent, os.W_OK)):
            return self._connect_to_a_copy(log)
        return _read_only(self.path, "mode=ro")

    def _connect_to_a_copy(self, beside: Path) -> sqlite3.Connection:
        self._copy = tempfile.TemporaryDirectory(prefix="gradwatch-")
        for file in (self.path, beside):
            shutil.copy(file, self._copy.name)
        return _read_only(Path(self._copy.name) / self.path.name, "mode=rw")

    def _check_schema(self) -> None:
        (application,) = self._db.execute("pragma application_id").fetchone()
        (version,) = self._db.execute("pragma user_version").fetchone()
        if application != APPLICATION_ID:
            raise NotARun(
                f"{str(self.path)!r} is an SQLite file, but gradwatch did not write it. Give the folder of a"
                " recorded run."
            )
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{str(self.path)!r} was written by a newer gradwatch (schema {version}; this version reads up"
                f" to {SCHEMA_VERSION}). Upgrade with `pip install -U gradwatch`."
            )

    def _columns(self, table: str, names: Sequence[str]) -> list[str]:
        """What to select for these columns; null for one that an older schema lacks."""
        present = {row[1] for row in self._db.execute(f"pragma table_info({table})")}
        return [f'{table}."{name}"' if name in present else "null" for name in names]

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error

    def meta(self) -> dict[str, str]:
        return dict(self._rows("select key, value from meta"))

    def attempts(self) -> list[Attempt]:
        columns = "attempt, first_step, started, ended, reason, dropped"
        names = columns.split(", ")
        rows = self._rows(f"select {columns} from attempt order by attempt")
        return [Attempt(**dict(zip(names, row, strict=True))) for row in rows]

    def optimizers(self) -> dict[str, str]:
        """The name of each optimizer with the name of its class."""
        return dict(self._rows("select name, class from optimizer order by rowid"))

    def settings(self, optimizer: str) -> dict[str, Any]:
        """What an optimizer was made with: its defaults."""
        rows = self._rows("select settings from optimizer where name = ?", optimizer)
        return dict(json.loads(rows[0][0])) if rows else {}

    def parameters(self, optimizer: str) -> tuple[ParameterInfo, ...]:
        rows = self._rows("select name, shape, dtype from parameter where optimizer = ? order by position", optimizer)
        return tuple(ParameterInfo(name=n, shape=tuple(json.loads(shape)), dtype=d) for n, shape, d in rows)

    def step_columns(self) -> dict[str, list[Any]]:
        """Table ``step`` by column, with NaN where the row says so, ``id`` first."""
        names = ["id", *STEP_COLUMNS]
        rows = self._rows(f"select id, {', '.join(self._step_columns)} from step order by id")
        columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=False)}
        columns = columns or {name: [] for name in names}
        for index, nan in enumerate(columns.pop("nan")):
            for name in nan.split(",") if nan else ():
                columns[name][index] = math.nan
        return columns

    def next_step(self, optimizer: str) -> int:
        """The number after the last step of an optimizer, 0 where it made none."""
        return int(self._rows("select coalesce(max(step) + 1, 0) from step where optimizer = ?", optimizer)[0][0])

    def last_attempt(self) -> int:
        """The number of the newest attempt, 0 where there is one only."""
        return int(self._rows("select coalesce(max(attempt), 0) from attempt")[0][0])

    def step_ids(self, optimizer: str) -> NDArray[np.int64]:
        """Id, step and attempt of each row of table ``step``, (rows, 3)."""
        rows = self._rows("select id, step, attempt from step where optimizer = ? order by id", optimizer)
        return np.array(rows, np.int64).reshape(len(rows), 3)

    def layer_table(
        self, stat: str, optimizer: str, one_of: int = 1, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one statistic of every parameter at it, (rows, parameters).

        Of ``one_of`` rows one, evenly. Only rows with an id after ``after`` and not above
        ``up_to``, at ``most`` so many.
        """
        table = "weight" if stat in WEIGHT_STATS else "layer"
        rows = self._rows(
            f"select {table}.id, step, {table}.{stat} from {table} join step using (id)"
            f" where {table}.id > ? and {table}.id <= ? and optimizer = ? and {table}.{stat} is not null"
            f" and {table}.id % ? = 0 order by {table}.id limit ?",
            after,
            _LARGEST_ID if up_to is None else up_to,
            optimizer,
            one_of,
            most,
        )
        ids = np.empty((len(rows), 2), np.int64)
        ids[:, 0], ids[:, 1] = [row[0] for row in rows], [row[1] for row in rows]
        ((parameters,),) = self._rows("select count(*) from parameter where optimizer = ?", optimizer)
        return ids, _stack([row[2] for row in rows], parameters)

    def events(self) -> list[Event]:
        columns = ", ".join(self._event_columns)
        return [_event(row) for row in self._rows(f"select {columns} from event order by id")]

    def records(self, optimizer: str, chunk: int = 500) -> Iterator[StepRecord]:
        """The records of an optimizer in the order in which they were written.

        They are read ``chunk`` by chunk, so that a writer on a journal without WAL is not kept waiting.
        """
        infos = self.parameters(optimizer)
        names = [*STEP_COLUMNS, *(f"layer.{name}" for name in STATS), *WEIGHT_STATS]
        columns = ", ".join([*self._step_columns, *names[len(STEP_COLUMNS) :]])
        query = (
            f"select step.id, {columns} from step left join layer using (id) left join weight using (id)"
            " where step.optimizer = ? and step.id > ? order by step.id limit ?"
        )
        last = 0
        while rows := self._rows(query, optimizer, last, chunk):
            last = rows[-1][0]
            for row in rows:
                yield _record(dict(zip(names, row[1:], strict=True)), infos)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise RunNotFound(
            f"There is no run at {str(path.parent if path.name == FILE_NAME else path)!r}. Give the folder of a"
            " recorded run; `gradwatch.attach(model, optimizer, run)` records one."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise StoreDamaged(f"{str(path)!r} can't be read: {error}.") from error
    if size and not start.startswith(b"SQLite format 3\0"):
        raise NotARun(
            f"{str(path)!r} is no store of gradwatch's (not an SQLite file). Give the folder of a recorded run."
        )


def _damaged(path: Path, error: Exception) -> GradwatchError:
    return StoreDamaged(
        f"{str(path)!r} can't be read: {error}. It may be cut off or overwritten; restore it from a copy, or"
        " see what `sqlite3 FILE .recover` can save."
    )


def _uses_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\2\2"


def _read_only(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True, timeout=5, check_same_thread=False)


def _stack(blobs: list[bytes], length: int) -> Floats:
    """Blobs as rows of a table; those from before a parameter was added are filled with NaN."""
    if all(len(blob) == 4 * length for blob in blobs):
        return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), length)
    table = np.full((len(blobs), length), np.nan, np.float32)
    for row, blob in zip(table, blobs, strict=True):
        values = np.frombuffer(blob, "<f4")[:length]
        row[: len(values)] = values
    return table


def _unblob(blob: bytes | None) -> Floats | None:
    return None if blob is None else np.frombuffer(blob, "<f4")


def _record(row: dict[str, Any], infos: tuple[ParameterInfo, ...]) -> StepRecord:
    for name in row["nan"].split(",") if row["nan"] else ():
        row[name] = math.nan
    rates = row["learning_rates"]
    one = () if row["learning_rate"] is None else (row["learning_rate"],)
    norm = _unblob(row["layer.norm"])
    weight_norm, update_norm = _unblob(row["weight_norm"]), _unblob(row["update_norm"])
    return StepRecord(
        **{
            name: row[name]
            for name in STEP_COLUMNS
            if name not in ("learning_rate", "learning_rates", "skipped", "nan")
        },
        learning_rates=tuple(json.loads(rates)) if rates else one,
        skipped=bool(row["skipped"]),
        layers=None
        if norm is None
        else LayerStats(
            parameters=infos[: len(norm)],
            norm=norm,
            **{name: _unblob(row[f"layer.{name}"]) for name in STATS[1:]},
        ),
        weights=None
        if weight_norm is None or update_norm is None
        else WeightStats(weight_norm=weight_norm, update_norm=update_norm),
    )


def _event(row: tuple[Any, ...]) -> Event:
    values = dict(zip(EVENT_COLUMNS, row, strict=True))
    for name in (values.pop("nan") or "").split(","):
        if name:
            values[name] = math.nan
    return Event(**values)
