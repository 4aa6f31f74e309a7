"""Reads table step: every number that a step has once, by column. A long run is read from its digests."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.store.columns import Columns, JoinedColumn, equals, is_of_one_value, step_arrays, with_nan
from gradwatch.store.digest_table import digested_steps
from gradwatch.store.digests import MANY_ROWS
from gradwatch.store.integrity import Integrity
from gradwatch.store.limits import LARGEST, is_count
from gradwatch.store.opening import Database
from gradwatch.store.schema import BLOBS, CHECKSUMS, STEP_COLUMNS
from gradwatch.store.small_tables import select

MAX_SPAN = 10**8
"""The largest id of a store that is read by digests: a store from a stranger may claim any."""

MAX_ROOM = 4_000_000
"""Rows for which a column has room from the beginning."""

CHUNK = 20_000
"""Rows of table ``step`` that are read at a time."""

CHECKED_STEPS = 10
"""Damaged steps at the end of a run that are looked at one by one."""

IDS = ("id", "step", "attempt")

NAMES = ("id", *STEP_COLUMNS, *CHECKSUMS)
"""The columns of a row."""


class StepTable:
    """The steps of one store."""

    def __init__(self, db: Database, integrity: Integrity) -> None:
        self._db, self._integrity = db, integrity
        # Of a long run, with the last id when they were read: id, step and attempt of each row of each optimizer.
        self._parts_written: tuple[int, int] | None = None  # the last id, and every bit of step.parts
        self._ids: tuple[int, dict[str, NDArray[np.int64]]] | None = None

    def columns(self, optimizer: str | None = None) -> dict[str, list[Any]]:
        """Table ``step`` by column, with NaN where the row says so, ``id`` first; of all optimizers, or of one."""
        which, names = ("", ()) if optimizer is None else ("where optimizer = ?", (optimizer,))
        query = f"select {select(self._db, 'step', NAMES)} from step not indexed {which} order by id"
        with self._db.one_moment():
            rows = self._db.rows(query, *names)
            last = self._last_id()
            every = f"select {select(self._db, 'step', ('id', 'crc'))} from step not indexed order by id"
            there = None if optimizer is None else self._db.rows(every)
        columns = _by_name(rows)
        columns = _those(columns, self._integrity.intact_steps(columns, last, there))
        for index, nan in enumerate(columns.pop("nan")):
            for name in nan.split(",") if nan else ():
                columns[name][index] = math.nan
        return columns

    def arrays(self, optimizer: str | None = None) -> Columns:
        """Table ``step`` by column as `digests.step_arrays` makes it, ordered by id: from digests where there are any.

        What a digest holds is as it was written, whether or not the rows below it still are. Of one optimizer only its
        own rows are checked, where there are no digests.
        """
        ((last,),) = self._db.rows("select max(id) from step not indexed")
        arrays = self._digested(last) if is_long(last) else None
        if arrays is None:
            return step_arrays(self.columns(optimizer))
        return arrays if optimizer is None else _of_optimizer(arrays, optimizer)

    def _digested(self, last: int) -> Columns | None:
        """The rows up to the last id; None where there is none."""
        room = min(last, MAX_ROOM)
        ids = np.zeros((len(IDS), room), np.int64)
        with self._db.one_moment():
            table = _joined(self._parts(last), room, ids)
        if table is None:
            return None
        if self._db.layout.has_crc:
            first = int(table["id"][0]) if not self._db.layout.has_row_crc else 1
            self._integrity.find_missing_steps(table["id"], first, max(last, self._last_id()))
        self._ids = last, _keep_ids(table, ids)
        return table

    def _parts(self, last: int) -> Iterator[Columns]:
        """The columns of each digest, and of the rows up to the last id that no digest covers."""
        covered = np.zeros(last + 1, bool)
        every = 0
        for number, columns, parts in digested_steps(self._db, self._integrity):
            if number <= last:
                covered[columns["id"]] = True
                every |= parts
                yield columns
        every |= self._bits_of(stretches_of(np.flatnonzero(~covered[1:]) + 1))
        self._parts_written = (last, every) if every >= 0 else None
        yield from self._uncovered(covered)

    def parts_written(self) -> int:
        """Every bit of step.parts that any step has, from the digests where they were read."""
        ((last,),) = self._db.rows("select max(id) from step not indexed")
        if self._parts_written is not None and self._parts_written[0] == last:
            return self._parts_written[1]
        return self._bits_of([(0, LARGEST)])

    def _bits_of(self, spans: Iterable[tuple[int, int]]) -> int:
        """Every bit of step.parts of the rows from one id to another."""
        query = "select distinct parts from step not indexed where id >= ? and id <= ?"
        found = [parts for span in spans for (parts,) in self._db.rows(query, *span) if is_count(parts)]
        return functools.reduce(operator.or_, found, 0)

    def _uncovered(self, covered: NDArray[np.bool_]) -> Iterator[Columns]:
        """The intact rows of table ``step`` whose ids no digest covers, some thousand at a time."""
        query = f"select {select(self._db, 'step', NAMES)} from step not indexed where id > ? and id <= ? order by id"
        for first, end in stretches_of(np.flatnonzero(~covered[1:]) + 1):
            for begin in range(first, end + 1, CHUNK):
                rows = self._db.rows(query, begin - 1, min(begin + CHUNK - 1, end))
                if rows:
                    columns = _by_name(rows)
                    yield step_arrays(with_nan(_those(columns, self._integrity.intact_chunk(columns))))

    def _last_id(self) -> int:
        """The largest id of a step that has blobs: where the last steps are lost, these tell of them."""
        found = [0]
        tables = [table for table in BLOBS if self._db.layout.has_table(table)]
        for table in tables if self._db.layout.has_row_crc else ():
            selected = select(self._db, table, ("id", *CHECKSUMS))
            rows = self._db.rows(f"select {selected} from {table} not indexed order by id desc limit 1")
            found += [number for number, *checksums in rows if self._integrity.is_bound(table, number, *checksums)]
        return max(found)

    def next_step(self, optimizer: str) -> int:
        """The number after the last step of an optimizer, 0 if it made none."""
        return max(self._integrity.next_steps.steps.get(optimizer, 0), self._next_in_rows(optimizer))

    def next_steps(self) -> dict[str, int]:
        """`next_step` of every optimizer that made one, in one pass over the rows."""
        known = self._integrity.next_steps
        steps = dict(known.steps)
        # Of an aggregate by max, the other columns are those of the row with the maximum.
        query = "select id, optimizer, max(step) from step not indexed where id > ? group by optimizer"
        for number, name, last in self._db.rows(query, known.last_id):
            if type(name) is str:
                is_right = is_count(last) and self._is_step(number, name, last)
                steps[name] = max(steps.get(name, 0), last + 1 if is_right else self._next_in_rows(name))
        return {name: step for name, step in steps.items() if step}

    def _is_step(self, number: Any, optimizer: str, step: int) -> bool:
        """Whether the row with an id is intact and of that optimizer and step."""
        rows = self._db.rows(f"select {select(self._db, 'step', NAMES)} from step not indexed where id = ?", number)
        found = [dict(zip(NAMES, row, strict=True)) for row in rows]
        return any(
            row["optimizer"] == optimizer and row["step"] == step and self._integrity.is_intact_step(row)
            for row in found
        )

    def _next_in_rows(self, optimizer: str) -> int:
        """`next_step` of the rows that table ``meta`` does not tell of."""
        after, below = self._integrity.next_steps.last_id, LARGEST
        for _ in range(CHECKED_STEPS):
            query = "select max(step) from step not indexed where id > ? and optimizer = ? and step <= ?"
            ((last,),) = self._db.rows(query, after, optimizer, below)
            if not is_count(last):
                return 0
            if self._has_step(optimizer, last):
                return int(last) + 1
            below = last - 1  # a damaged row
        columns = self.columns()  # with this many damaged rows, reading all is faster
        own = [step for step, name in zip(columns["step"], columns["optimizer"], strict=True) if name == optimizer]
        return max(own, default=-1) + 1

    def _has_step(self, optimizer: str, step: int) -> bool:
        """Whether an intact row has this step; it is looked for among the newest first."""
        query = f"select {select(self._db, 'step', NAMES)} from step not indexed where optimizer = ? and step = ?"
        for which in ("and id > (select max(id) from step not indexed) - 1000", ""):
            rows = [dict(zip(NAMES, row, strict=True)) for row in self._db.rows(f"{query} {which}", optimizer, step)]
            if any(self._integrity.is_intact_step(row) for row in rows):
                return True
        return False

    def ids(self, optimizer: str) -> NDArray[np.int64]:
        """Id, step and attempt of each row of table ``step``, (rows, 3), without those known to be damaged.

        `columns` finds out which are.
        """
        known = self._digested_ids(optimizer)
        if known is not None:
            return known
        query = "select id, step, attempt from step not indexed where optimizer = ? order by id"
        rows = self._db.rows(query, optimizer)
        left_out = self._integrity.left_out
        if left_out or not {int}.issuperset(map(type, chain.from_iterable(rows))):
            rows = [row for row in rows if all(map(is_count, row)) and ("step", row[0]) not in left_out]
        return np.array(rows, np.int64).reshape(len(rows), 3)

    def _digested_ids(self, optimizer: str) -> NDArray[np.int64] | None:
        """`ids` of a long run, as `arrays` reads it; None of a run without digests."""
        ((last,),) = self._db.rows("select max(id) from step not indexed")
        if not is_long(last) or not self._db.layout.has_table("digest"):
            return None
        if not self._db.rows("select last_id from digest not indexed limit 1"):
            return None
        if self._ids is None or self._ids[0] != last:
            self.arrays()
        assert self._ids is not None
        return self._ids[1].get(optimizer, np.empty((0, 3), np.int64))


def is_long(last: Any) -> bool:
    """Whether a run whose largest id is ``last`` is read from its digests."""
    return is_count(last) and MANY_ROWS <= last <= MAX_SPAN


def _by_name(rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows of `NAMES` by column."""
    return dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True)) if rows else {name: [] for name in NAMES}


def _those(columns: Mapping[str, list[Any]], intact: NDArray[np.bool_]) -> dict[str, list[Any]]:
    """The rows that are intact, without their checksums."""
    kept = {name: column for name, column in columns.items() if name not in CHECKSUMS}
    if intact.all():
        return kept
    return {name: [v for v, ok in zip(column, intact, strict=True) if ok] for name, column in kept.items()}


def _joined(parts: Iterable[Columns], most: int, ids: NDArray[np.int64]) -> Columns | None:
    """One table of all parts, ordered by id; None without a part.

    Args:
        parts: which are read as they are asked for, so that few are held at a time.
        most: rows that they have together, as far as is known.
        ids: where the columns `IDS` are put, (3, most), unless they are of one value or there are more rows.
    """
    columns = {name: JoinedColumn(most, ids[at]) for at, name in enumerate(IDS)}
    for part in parts:
        for name, column in part.items():
            columns.setdefault(name, JoinedColumn(most)).extend(column)
    if len(columns) == len(IDS):
        return None
    table = {name: column.whole() for name, column in columns.items()}
    numbers = table["id"]
    if len(numbers) > 1 and not (numbers[1:] > numbers[:-1]).all():
        order = np.argsort(numbers, kind="stable")
        table = {name: column if is_of_one_value(column) else column[order] for name, column in table.items()}
    return table


def _keep_ids(table: Columns, ids: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Id, step and attempt of each row, (rows, 3), by optimizer.

    Of a single one they are `ids`, in which `_joined` has put them already, and the table's columns are parts of that:
    the first attempt, 0, is neither written nor takes memory.
    """
    is_one = is_of_one_value(table["optimizer"])
    found = {}
    for name in [table["optimizer"][0]] if is_one else set(table["optimizer"].tolist()):
        own = _of_optimizer({name: table[name] for name in (*IDS, "optimizer")}, name)
        length = len(own["id"])
        rows = ids[:, :length] if is_one and length <= ids.shape[1] else np.zeros((len(IDS), length), np.int64)
        for at, column in enumerate(IDS):
            if not np.may_share_memory(rows[at], own[column]) and own[column].any():
                rows[at] = own[column]
            if is_one and not is_of_one_value(own[column]):
                table[column] = rows[at]
        rows.flags.writeable = False
        found[name] = rows.T
    return found


def _of_optimizer(columns: Columns, optimizer: str) -> Columns:
    """The rows of one optimizer."""
    own = equals(columns["optimizer"], optimizer)
    return columns if own.all() else {name: column[own] for name, column in columns.items()}


def stretches_of(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The first and the last number of each stretch of consecutive ones.

    >>> stretches_of(np.array([1, 2, 5]))
    [(1, 2), (5, 5)]
    """
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) > 1) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(ids, cuts)]
