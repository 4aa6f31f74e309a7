"""Readers of a run, finished or being written."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from gradwatch.errors import GradwatchError, NotARun, RunNotFound, StoreDamaged, StoreTooNew
from gradwatch.record import (
    RANK_STATS,
    STATS,
    WEIGHT_STATS,
    Event,
    Floats,
    LayerStats,
    ParameterInfo,
    RankStats,
    StepRecord,
    WeightStats,
)
from gradwatch.store.checksums import blobs_are_right, of_blobs, of_row, of_step, of_steps
from gradwatch.store.schema import (
    ADDED,
    APPLICATION_ID,
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    FILE_NAME,
    PARTS,
    RANKS_SINCE,
    SCHEMA_VERSION,
    SEALED_SINCE,
    STEP_COLUMNS,
)

_LARGEST_ID = 2**63 - 1
_SEALED = ("meta", "attempt", "optimizer", "parameter", "layer", "weight")
_MOST_COUNTED = 1_000_000  # missing rows


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
        self._left_out: set[tuple[str, object]] = set()
        self._parameters: dict[str, tuple[ParameterInfo, ...]] = {}
        _check_file(self.path)
        try:
            self._db = self._connect()
            self._check_schema()
            self._step_columns = self._columns("step", (*STEP_COLUMNS, "crc"))
            self._event_columns = self._columns("event", (*EVENT_COLUMNS, "crc"))
            sealed = _SEALED if self._version < RANKS_SINCE else (*_SEALED, "rank")
            self._crc = {table: self._columns(table, ["crc"])[0] for table in sealed}
            self._sealed_from = self._first_sealed()
        except (sqlite3.Error, UnicodeDecodeError) as error:
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
        self._version = int(version)
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
        """What to select for these columns; null for one that an older schema lacks.

        Raises:
            StoreDamaged: one is lacking that this schema has.
        """
        present = {row[1] for row in self._db.execute(f"pragma table_info({table})")}
        later = {name for version, added in ADDED.items() if version > self._version for name in added} & {*names}
        needed = {*names, "crc"} - later
        if (self._version >= SEALED_SINCE) != present.issuperset(needed) or present & later:
            raise _damaged(self.path, ValueError(f"table {table!r} is not that of schema {self._version}"))
        return [f'{table}."{name}"' if name in present else "null" for name in names]

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error

    def _first_sealed(self) -> int:
        """The id from which on every row of a step has checksums; those before are of an older version."""
        if self._version < SEALED_SINCE:
            return _LARGEST_ID
        found = self._db.execute("select value from meta where key = 'sealed_from'").fetchone()
        return int(found[0]) if found is not None and str(found[0]).isdecimal() else 0

    @property
    def damaged_rows(self) -> int:
        """Rows that were read so far and left out, because they are not as they were written, or are missing."""
        return len(self._left_out)

    def _sealed(self, table: str, columns: str, rest: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows of a small table that are as they were written."""
        for row in self._rows(f"select {columns}, {self._crc[table]} from {table} {rest}", *values):
            if row[-1] is None or row[-1] == of_row(row[:-1]):
                yield row[:-1]
            else:
                self._left_out.add((table, row[0]))

    def meta(self) -> dict[str, str]:
        return dict(self._sealed("meta", "key, value", ""))

    def attempts(self) -> list[Attempt]:
        names = [field.name for field in fields(Attempt)]
        rows = self._sealed("attempt", ", ".join(ATTEMPT_COLUMNS), "order by attempt")
        each = [dict(zip(ATTEMPT_COLUMNS, row, strict=True)) for row in rows]
        return [Attempt(**{name: row[name] for name in names}) for row in each]

    def optimizers(self) -> dict[str, str]:
        """The name of each optimizer with the name of its class."""
        return {name: kind for name, kind, _ in self._sealed("optimizer", "name, class, settings", "order by rowid")}

    def settings(self, optimizer: str) -> dict[str, Any]:
        """What an optimizer was made with: its defaults."""
        rows = list(self._sealed("optimizer", "name, class, settings", "where name = ?", optimizer))
        return dict(self._json(rows[0][2])) if rows else {}

    def parameters(self, optimizer: str) -> tuple[ParameterInfo, ...]:
        """Those of an optimizer, by position; one whose row is damaged has a name that says so."""
        ((count,),) = self._rows("select count(*) from parameter where optimizer = ?", optimizer)
        known = self._parameters.get(optimizer, ())
        if len(known) != count:
            known = self._parameters[optimizer] = self._read_parameters(optimizer, count)
        return known

    def _read_parameters(self, optimizer: str, count: int) -> tuple[ParameterInfo, ...]:
        columns = "optimizer, position, name, shape, dtype"
        rows = {row[1]: row for row in self._sealed("parameter", columns, "where optimizer = ?", optimizer)}
        infos = []
        for position in range(count):
            if position in rows:
                _, _, name, shape, dtype = rows[position]
                infos.append(ParameterInfo(name=name, shape=tuple(self._json(shape)), dtype=dtype))
            else:
                infos.append(_damaged_info(position))
        return tuple(infos)

    def _json(self, text: Any) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError) as error:
            raise _damaged(self.path, error) from error

    def step_columns(self) -> dict[str, list[Any]]:
        """Table ``step`` by column, with NaN where the row says so, ``id`` first."""
        names = ["id", *STEP_COLUMNS, "crc"]
        rows = self._rows(f"select id, {', '.join(self._step_columns)} from step order by id")
        columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=False)}
        columns = columns or {name: [] for name in names}
        right = self._right_steps(columns)
        del columns["crc"]
        if not right.all():
            columns = {name: [v for v, ok in zip(c, right, strict=True) if ok] for name, c in columns.items()}
        for index, nan in enumerate(columns.pop("nan")):
            for name in nan.split(",") if nan else ():
                columns[name][index] = math.nan
        return columns

    def _right_steps(self, columns: dict[str, list[Any]]) -> NDArray[np.bool_]:
        """Which rows are as they were written. Ids are consecutive, so that those that are missing are known too."""
        sums, strange = of_steps(columns)
        seals = np.array([crc if isinstance(crc, int) else -1 for crc in columns["crc"]], np.int64)
        older = np.array(columns["id"], np.int64) < self._sealed_from
        right: NDArray[np.bool_] = ~strange & ((older & (seals == -1)) | (seals == sums)) & _first_time(columns["id"])
        self._left_out |= {("step", columns["id"][i]) for i in np.flatnonzero(~right)}
        sealed = [number for number, crc in zip(columns["id"], columns["crc"], strict=True) if crc is not None]
        if sealed and sealed[-1] - sealed[0] + 1 > len(sealed):
            there = set(columns["id"])
            gaps = (number for number in range(sealed[0], sealed[-1] + 1) if number not in there)
            self._left_out |= {("step", number) for number in islice(gaps, _MOST_COUNTED)}
        return right

    def next_step(self, optimizer: str) -> int:
        """The number after the last step of an optimizer, 0 where it made none."""
        return int(self._rows("select coalesce(max(step) + 1, 0) from step where optimizer = ?", optimizer)[0][0])

    def last_attempt(self) -> int:
        """The number of the newest attempt, 0 where there is one only."""
        return int(self._rows("select coalesce(max(attempt), 0) from attempt")[0][0])

    def step_ids(self, optimizer: str) -> NDArray[np.int64]:
        """Id, step and attempt of each row of table ``step``, (rows, 3), without those found to be damaged so far.

        Which are damaged `step_columns` finds out.
        """
        rows = self._rows("select id, step, attempt from step where optimizer = ? order by id", optimizer)
        if self._left_out or not {int}.issuperset(map(type, chain.from_iterable(rows))):
            rows = [r for r in rows if all(type(n) is int for n in r) and ("step", r[0]) not in self._left_out]
        return np.array(rows, np.int64).reshape(len(rows), 3)

    def rank_table(
        self, stat: str, optimizer: str, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one statistic of every rank at it, (rows, ranks)."""
        if self._version < RANKS_SINCE:
            return np.empty((0, 2), np.int64), np.empty((0, 0), np.float32)
        ids, blobs = self._blobs("rank", RANK_STATS, stat, optimizer, one_of=1, after=after, up_to=up_to, most=most)
        return ids, _stack(blobs, max((len(blob) // 4 for blob in blobs), default=0))

    def layer_table(
        self, stat: str, optimizer: str, one_of: int = 1, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one statistic of every parameter at it, (rows, parameters).

        Of ``one_of`` rows one, evenly. Only rows with an id after ``after`` and not above
        ``up_to``, at ``most`` so many.
        """
        table, names = ("weight", WEIGHT_STATS) if stat in WEIGHT_STATS else ("layer", STATS)
        ids, blobs = self._blobs(table, names, stat, optimizer, one_of=one_of, after=after, up_to=up_to, most=most)
        return ids, _stack(blobs, len(self.parameters(optimizer)))

    def _blobs(
        self,
        table: str,
        names: Sequence[str],
        stat: str,
        optimizer: str,
        *,
        one_of: int,
        after: int,
        up_to: int | None,
        most: int,
    ) -> tuple[NDArray[np.int64], list[bytes]]:
        """Of the rows of a table that are as they were written: id and step, (rows, 2), and one column."""
        last = _LARGEST_ID if up_to is None else up_to
        with self._one_moment():
            rows = self._rows(
                f"select {table}.id, step, {table}.{stat}, {self._crc[table]} from {table} join step using (id)"
                f" where {table}.id > ? and {table}.id <= ? and optimizer = ? and {table}.{stat} is not null"
                f" and {table}.id % ? = 0 order by {table}.id limit ?",
                after,
                last,
                optimizer,
                one_of,
                most,
            )
            numbers, steps, blobs, sums = [list(column) for column in zip(*rows, strict=True)] or ([], [], [], [])
            if stat in ("norm", *WEIGHT_STATS) and self._version >= SEALED_SINCE:
                last = numbers[-1] if 0 < most == len(numbers) else last
                self._look_for_missing(table, optimizer, numbers, one_of, after, last)
        right = blobs_are_right(numbers, steps, blobs, sums, names.index(stat), self._sealed_from)
        right &= _first_time(numbers)
        if not right.all():
            self._left_out |= {(table, numbers[i]) for i in np.flatnonzero(~right)}
            numbers, steps, blobs = ([v for v, ok in zip(c, right, strict=True) if ok] for c in (numbers, steps, blobs))
        ids = np.empty((len(numbers), 2), np.int64)
        ids[:, 0], ids[:, 1] = numbers, steps
        return ids, blobs

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[None]:
        """All that is read within is of one moment, whatever is written meanwhile."""
        self._rows("begin")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")

    def _look_for_missing(
        self, table: str, optimizer: str, there: list[int], one_of: int, after: int, up_to: int
    ) -> None:
        """Count the rows that the steps say were written, and that are not there."""
        those = "from step where id > ? and id <= ? and optimizer = ? and parts & ? and id % ? = 0"
        values = (after, up_to, optimizer, PARTS[table], one_of)
        ((expected,),) = self._rows(f"select count(*) {those}", *values)
        if expected > len(there):
            present = set(there)
            missing = [number for (number,) in self._rows(f"select id {those}", *values) if number not in present]
            self._left_out |= {(table, number) for number in missing}

    def events(self) -> list[Event]:
        columns = ", ".join(self._event_columns)
        found = []
        for number, *row, crc in self._rows(f"select id, {columns} from event order by id"):
            if crc is None or crc == of_row(row if row[-1] is not None else row[:-1]):
                found.append(_event(row))
            else:
                self._left_out.add(("event", number))
        return found

    def records(self, optimizer: str, chunk: int = 500) -> Iterator[StepRecord]:
        """The records of an optimizer in the order in which they were written.

        They are read ``chunk`` by chunk, so that a writer on a journal without WAL is not kept waiting.
        """
        infos = self.parameters(optimizer)
        names = [
            "id",
            *STEP_COLUMNS,
            "crc",
            *(f"layer.{name}" for name in STATS),
            *WEIGHT_STATS,
            "layer.crc",
            "weight.crc",
            *(f"rank.{name}" for name in (*RANK_STATS, "crc")),
        ]
        blobs = [*(f"layer.{name}" for name in STATS), *WEIGHT_STATS]
        has_ranks = self._version >= RANKS_SINCE
        of_ranks = [f"rank.{name}" if has_ranks else "null" for name in (*RANK_STATS, "crc")]
        sums = (self._crc[table] for table in ("layer", "weight"))
        columns = ", ".join([*self._step_columns, *blobs, *sums, *of_ranks])
        query = (
            f"select step.id, {columns} from step left join layer using (id) left join weight using (id)"
            f"{' left join rank using (id)' if has_ranks else ''}"
            " where step.optimizer = ? and step.id > ? order by step.id limit ?"
        )
        last = 0
        while rows := self._rows(query, optimizer, last, chunk):
            before = last
            for values in rows:
                row = dict(zip(names, values, strict=True))
                if row["id"] > last:
                    last = row["id"]
                    if self._is_right(row):
                        yield _record(row, infos)
            if last == before:
                return  # a damaged tree leads in a circle

    def _is_right(self, row: dict[str, Any]) -> bool:
        """Whether a row of all three tables is as it was written."""
        tables = {"layer": [row[f"layer.{name}"] for name in STATS], "weight": [row[name] for name in WEIGHT_STATS]}
        tables["rank"] = [row[f"rank.{name}"] for name in RANK_STATS]
        older = row["id"] < self._sealed_from
        try:
            right = row["crc"] == of_step(row) or (older and row["crc"] is None)
            for table, blobs in tables.items():
                crc = row[f"{table}.crc"]
                unsealed = crc is None and (older or all(blob is None for blob in blobs))
                right = right and (unsealed or crc == of_blobs(row["id"], row["step"], blobs))
        except (TypeError, ValueError):
            right = False
        if not right:
            self._left_out.add(("step", row["id"]))
        return right


def _first_time(numbers: Sequence[int]) -> NDArray[np.bool_]:
    """False where an id comes again, as it does where the tree of a damaged file leads to a row twice."""
    first = np.zeros(len(numbers), bool)
    first[np.unique(np.array(numbers, np.int64), return_index=True)[1]] = True
    return first


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
    of_ranks = {name: np.frombuffer(blob, "<f4") for name in RANK_STATS if (blob := row[f"rank.{name}"]) is not None}
    return StepRecord(
        **{
            name: row[name]
            for name in STEP_COLUMNS
            if name not in ("learning_rate", "learning_rates", "skipped", "parts", "nan")
        },
        learning_rates=tuple(json.loads(rates)) if rates else one,
        skipped=bool(row["skipped"]),
        layers=None
        if norm is None
        else LayerStats(
            parameters=infos[: len(norm)] + tuple(map(_damaged_info, range(len(infos), len(norm)))),
            norm=norm,
            **{name: _unblob(row[f"layer.{name}"]) for name in STATS[1:]},
        ),
        weights=None
        if weight_norm is None or update_norm is None
        else WeightStats(weight_norm=weight_norm, update_norm=update_norm),
        ranks=RankStats(**of_ranks) if len(of_ranks) == len(RANK_STATS) else None,
    )


def _damaged_info(position: int) -> ParameterInfo:
    """Stands for a parameter whose row is not there any more."""
    return ParameterInfo(name=f"(damaged {position})", shape=(0,))


def _event(row: Sequence[Any]) -> Event:
    values = dict(zip(EVENT_COLUMNS, row, strict=True))
    for name in (values.pop("nan") or "").split(","):
        if name:
            values[name] = math.nan
    return Event(**values)
