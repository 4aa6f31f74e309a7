"""Reads the large tables of a store: step, layer, weight, rank and optimizer_update."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.errors import StoreDamaged
from gradwatch.record import WEIGHT_STATS, Floats, ParameterInfo, StepRecord
from gradwatch.store.digests import Columns, LayerDigest, step_arrays, unpack_layers, unpack_steps, with_nan
from gradwatch.store.integrity import Integrity
from gradwatch.store.opening import Database
from gradwatch.store.schema import BLOBS, CHECKSUMS, PARTS, STEP_COLUMNS
from gradwatch.store.small_tables import select
from gradwatch.store.values import LARGEST, is_count, record_of, valid_table

MAX_PADDING = 2**30
"""Bytes that a table may take beyond 64 times those of its blobs, if they are of different lengths."""

MANY_ROWS = 50_000
"""Rows from which on digests are looked for, and rows are read a part at a time."""

MAX_SPAN = 10**8
"""The largest id of a store that is read by digests: a store from a stranger may claim any."""

SPARSE = 16
"""A sample of one row in so many or more is looked up id by id."""

LOOKED_UP = 500
"""Ids in one query."""

CHUNK = 20_000
"""Rows of table ``step`` that are read at a time."""

FEW = 10
"""Damaged steps at the end of a run that are looked at one by one."""


ALWAYS_THERE = ("norm", *WEIGHT_STATS)
"""The columns of blobs that no row lacks, whatever table they are in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which rows of a table to read.

    Attributes:
        one_of: read one of this many rows, evenly.
        after: only rows with a larger id.
        up_to: only rows with no larger id.
        most: of rows; -1: all.
    """

    one_of: int = 1
    after: int = 0
    up_to: int = LARGEST
    most: int = -1


class StepTables:
    """The steps of one store, with the statistics of their parameters, weights and ranks."""

    def __init__(self, db: Database, integrity: Integrity) -> None:
        self._db, self._integrity = db, integrity
        self._ids: tuple[int, Columns] | None = None  # of a long run, with the last id when they were read
        self._looked: set[tuple[str, str, Part, int]] = set()  # for missing rows, in vain

    def step_columns(self) -> dict[str, list[Any]]:
        """Table ``step`` by column, with NaN where the row says so, ``id`` first."""
        names = ("id", *STEP_COLUMNS, *CHECKSUMS)
        with self._db.one_moment():
            rows = self._db.rows(f"select {select(self._db, 'step', names)} from step not indexed order by id")
            last = self._last_id()
        columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=False)}
        columns = columns or {name: [] for name in names}
        intact = self._integrity.intact_steps(columns, last)
        for name in CHECKSUMS:
            del columns[name]
        if not intact.all():
            columns = {name: [v for v, ok in zip(c, intact, strict=True) if ok] for name, c in columns.items()}
        for index, nan in enumerate(columns.pop("nan")):
            for name in nan.split(",") if nan else ():
                columns[name][index] = math.nan
        return columns

    def step_arrays(self) -> Columns:
        """Table ``step`` by column as `digests.step_arrays` makes it, ordered by id: from digests where there are any.

        What a digest holds is as it was written, whether or not the rows below it still are.
        """
        ((last,),) = self._db.rows("select max(id) from step not indexed")
        if not is_count(last) or last < MANY_ROWS or last > MAX_SPAN:
            return step_arrays(self.step_columns())
        with self._db.one_moment():
            known = [unpacked for number, unpacked in self.digested_steps() if number <= last]
            covered = np.zeros(last + 1, bool)
            for columns in known:
                covered[columns["id"]] = True
            parts = [*known, *self._uncovered(covered)]
        if not parts:
            return step_arrays(self.step_columns())
        # One column after the other, so that only one is held twice.
        joined = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
        ids = joined["id"]
        if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
            order = np.argsort(ids, kind="stable")
            joined = {name: column[order] for name, column in joined.items()}
        if self._db.layout.has_crc:
            first = int(joined["id"][0]) if not self._db.layout.has_row_crc else 1
            self._integrity.find_missing_steps(joined["id"], first, max(int(last), self._last_id()))
        self._ids = int(last), {name: joined[name] for name in ("id", "step", "attempt", "optimizer")}
        return joined

    def digested_steps(self, optimizer: str | None = None) -> list[tuple[int, Columns]]:
        """The last id and the columns of each intact digest, of one optimizer or all, in order of their ids."""
        found = []
        for number, owner, blob in self._digests("steps", optimizer):
            try:
                columns = unpack_steps(blob)
            except ValueError:
                continue
            ids = columns["id"]
            right = len(ids) and ids[0] > 0 and ids[-1] == number and (ids[1:] > ids[:-1]).all()
            if right and (columns["optimizer"] == owner).all():
                found.append((number, columns))
        return found

    def digested_layers(self, optimizer: str) -> dict[int, LayerDigest]:
        """Of each intact digest of an optimizer that has layers, by its last id."""
        found = {}
        for number, _, blob in self._digests("layers", optimizer):
            with contextlib.suppress(ValueError):
                found[number] = unpack_layers(blob)
        return found

    def _digests(self, part: str, optimizer: str | None) -> Iterator[tuple[int, str, bytes]]:
        """Id, optimizer and one blob of each intact row of table ``digest``; one that is not is left out uncounted.

        They are read one by one, for together they may be large.
        """
        if not self._db.layout.has_table("digest"):
            return
        which = "" if optimizer is None else "where optimizer = ?"
        names = () if optimizer is None else (optimizer,)
        heads = "last_id, optimizer, steps_crc, layers_crc, crc, row_crc"
        for number, owner, steps_crc, layers_crc, crc, bound in self._db.rows(
            f"select {heads} from digest not indexed {which} order by last_id", *names
        ):
            if not self._integrity.is_intact_digest(number, (number, owner, steps_crc, layers_crc), crc, bound):
                continue
            ((blob,),) = self._db.rows(f"select {part} from digest not indexed where last_id = ?", number)
            if type(blob) is bytes and zlib.crc32(blob) == (steps_crc if part == "steps" else layers_crc):
                yield number, owner, blob

    def _uncovered(self, covered: NDArray[np.bool_]) -> Iterator[Columns]:
        """The intact rows of table ``step`` whose ids no digest covers, some thousand at a time."""
        names = ("id", *STEP_COLUMNS, *CHECKSUMS)
        query = f"select {select(self._db, 'step', names)} from step not indexed where id > ? and id <= ? order by id"
        for first, end in stretches_of(np.flatnonzero(~covered[1:]) + 1):
            for begin in range(first, end + 1, CHUNK):
                rows = self._db.rows(query, begin - 1, min(begin + CHUNK - 1, end))
                if not rows:
                    continue
                columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
                intact = self._integrity.intact_chunk(columns)
                for name in CHECKSUMS:
                    del columns[name]
                if not intact.all():
                    columns = {n: [v for v, ok in zip(c, intact, strict=True) if ok] for n, c in columns.items()}
                yield step_arrays(with_nan(columns))

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
        below = LARGEST
        for _ in range(FEW):
            query = "select max(step) from step not indexed where optimizer = ? and step <= ?"
            ((last,),) = self._db.rows(query, optimizer, below)
            if not is_count(last):
                return 0
            if self._has_step(optimizer, last):
                return int(last) + 1
            below = last - 1  # a damaged row
        columns = self.step_columns()  # with this many damaged rows, reading all is faster
        own = [step for step, name in zip(columns["step"], columns["optimizer"], strict=True) if name == optimizer]
        return max(own, default=-1) + 1

    def _has_step(self, optimizer: str, step: int) -> bool:
        """Whether an intact row has this step; it is looked for among the newest first."""
        names = ("id", *STEP_COLUMNS, *CHECKSUMS)
        query = f"select {select(self._db, 'step', names)} from step not indexed where optimizer = ? and step = ?"
        for which in ("and id > (select max(id) from step not indexed) - 1000", ""):
            rows = [dict(zip(names, row, strict=True)) for row in self._db.rows(f"{query} {which}", optimizer, step)]
            if any(self._integrity.is_intact_step(row) for row in rows):
                return True
        return False

    def step_ids(self, optimizer: str) -> NDArray[np.int64]:
        """Id, step and attempt of each row of table ``step``, (rows, 3), without those known to be damaged.

        `step_columns` finds out which are.
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
        """`step_ids` of a long run, as `step_arrays` reads it; None of a run without digests."""
        ((last,),) = self._db.rows("select max(id) from step not indexed")
        if not is_count(last) or last < MANY_ROWS or last > MAX_SPAN or not self._db.layout.has_table("digest"):
            return None
        if not self._db.rows("select last_id from digest not indexed limit 1"):
            return None
        if self._ids is None or self._ids[0] != last:
            self.step_arrays()
        assert self._ids is not None
        columns = self._ids[1]
        own = columns["optimizer"] == optimizer
        return np.stack([columns[name][own] for name in ("id", "step", "attempt")], axis=1)

    def table(
        self, table: str, stat: str, optimizer: str, length: int | None, part: Part
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each intact row, (rows, 2), and one statistic at it, (rows, ``length``).

        Args:
            table: one of blobs, for example ``layer``.
            stat: a column of the table.
            optimizer: its name.
            length: of a row; None: that of the longest.
            part: which rows.
        """
        if not (self._db.layout.has_table(table) and self._db.layout.has_column(table, stat)):
            return np.empty((0, 2), np.int64), np.empty((0, 0), np.float32)
        columns = self._blobs(table, stat, optimizer, part)
        intact = self._integrity.intact_blobs(table, stat, columns)
        numbers, steps, blobs = ([v for v, ok in zip(c, intact, strict=True) if ok] for c in columns[:3])
        ids = np.empty((len(numbers), 2), np.int64)
        ids[:, 0], ids[:, 1] = numbers, steps
        values = self._stack(blobs, length)
        valid = valid_table(stat, values)
        self._integrity.left_out |= {(table, numbers[i]) for i in np.flatnonzero(~valid)}
        return (ids, values) if valid.all() else (ids[valid], values[valid])

    def _blobs(self, table: str, stat: str, optimizer: str, part: Part) -> list[list[Any]]:
        """Ids, steps, blobs and the two checksums of the rows of a table."""
        selected = select(self._db, table, (stat, *CHECKSUMS))
        with self._db.one_moment():
            rows = []
            for which, ids in self._chosen(table, part):
                rows += self._db.rows(
                    f"select {table}.id, step, {selected} from {table} not indexed join step not indexed using (id)"
                    f" where {which} and optimizer = ? and {table}.{stat} is not null order by {table}.id limit ?",
                    *(*ids, optimizer, part.most),
                )
            columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
            if part.most and stat in ALWAYS_THERE and self._db.layout.has_crc:
                if 0 < part.most == len(rows):
                    part = replace(part, up_to=columns[0][-1])
                self._find_missing(table, optimizer, columns[0], part)
        return columns

    def _chosen(self, table: str, part: Part) -> list[tuple[str, tuple[int, ...]]]:
        """Conditions on the ids of rows with their values, of which each chooses some of the rows of a part.

        A sparse sample is looked up id by id, for SQLite would visit every row otherwise.
        """
        if part.one_of >= SPARSE and part.most < 0:
            ((last,),) = self._db.rows("select max(id) from step not indexed")
            most = min(part.up_to, last) if is_count(last) else 0
            ids = range((part.after // part.one_of + 1) * part.one_of, most + 1, part.one_of)
            if len(ids) <= MANY_ROWS:
                parts = [tuple(ids[at : at + LOOKED_UP]) for at in range(0, len(ids), LOOKED_UP)]
                return [(f"{table}.id in ({', '.join('?' * len(some))})", some) for some in parts]
        bounds = (part.after, part.up_to, part.one_of)
        return [(f"{table}.id > ? and {table}.id <= ? and {table}.id % ? = 0", bounds)]

    def _find_missing(self, table: str, optimizer: str, there: list[int], part: Part) -> None:
        """Count the rows that were written, as the steps say, and are not there."""
        looked = (table, optimizer, part, len(there))
        if part.most < 0 and looked in self._looked:
            return
        missing: list[int] = []
        present = set(there)
        for which, ids in self._chosen("step", replace(part, most=-1)):
            written = f"from step not indexed where {which} and optimizer = ? and parts & ?"
            values = (*ids, optimizer, PARTS[table])
            ((expected,),) = self._db.rows(f"select count(*) {written}", *values)
            if expected > (len(there) if part.one_of < SPARSE else 0):
                missing += [
                    number for (number,) in self._db.rows(f"select id {written}", *values) if number not in present
                ]
        self._integrity.left_out |= {(table, number) for number in missing}
        if not missing:
            self._looked.add(looked)

    def _stack(self, blobs: list[bytes], length: int | None) -> Floats:
        """Blobs as rows of a table; a shorter one, from before a parameter joined, is filled with NaN."""
        if length is None:
            length = max((len(blob) // 4 for blob in blobs), default=0)
        if all(len(blob) == 4 * length for blob in blobs):
            return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), length)
        if 4 * length * len(blobs) > 64 * sum(map(len, blobs)) + MAX_PADDING:
            raise StoreDamaged(f"{str(self._db.path)!r} can't be read: its rows are of very different lengths.")
        table = np.full((len(blobs), length), np.nan, np.float32)
        for row, blob in zip(table, blobs, strict=True):
            values = np.frombuffer(blob, "<f4")[:length]
            row[: len(values)] = values
        return table

    def records(self, optimizer: str, infos: tuple[ParameterInfo, ...], after: int, chunk: int) -> Iterator[StepRecord]:
        """The intact records of an optimizer in the order of their ids, from the first after ``after``.

        They are read ``chunk`` ids at a time, so that a writer without a write-ahead log is not kept waiting.
        """
        names, query = self._record_query()
        while True:
            # The ids are consecutive but for lost rows, and a damaged id may be anywhere.
            ((first,),) = self._db.rows("select min(id) from step not indexed where id > ?", after)
            if not is_count(first) or first <= after:  # damaged pages may lead in a circle
                return
            after = first - 1
            # Ids that are written after this query come with the next one.
            ((newest,),) = self._db.rows("select max(id) from step not indexed where id <= ?", after + chunk)
            last = max(first, newest or first)
            for values in self._db.rows(query, after, last, optimizer):
                row = dict(zip(names, values, strict=True))
                record = record_of(row, infos) if self._integrity.is_intact(row) else None
                if record is not None:
                    yield record
                else:
                    self._integrity.left_out.add(("step", row["id"]))
            after = last

    def _record_query(self) -> tuple[Sequence[str], str]:
        """The names of the columns of a step with all its blobs, and the query from one id to another."""
        step = ("id", *STEP_COLUMNS, *CHECKSUMS)
        blobs = [(table, (*stats, *CHECKSUMS)) for table, stats in BLOBS.items()]
        names = [*step, *(f"{table}.{name}" for table, columns in blobs for name in columns)]
        selected = ", ".join(select(self._db, table, columns) for table, columns in [("step", step), *blobs])
        tables = [table for table in BLOBS if self._db.layout.has_table(table)]
        joined = " ".join(f"left join {table} not indexed on {table}.id = step.id" for table in tables)
        which = "step.id > ? and step.id <= ? and step.optimizer = ?"
        return names, f"select {selected} from step not indexed {joined} where {which} order by step.id"


def stretches_of(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The first and the last number of each stretch of consecutive ones.

    >>> stretches_of(np.array([1, 2, 5]))
    [(1, 2), (5, 5)]
    """
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) > 1) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(ids, cuts)]
