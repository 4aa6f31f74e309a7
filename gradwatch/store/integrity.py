"""Finds the intact rows of a store: unchanged, in their place, and none of them missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.store.checksums import blobs_crc, match_blobs, row_crc, row_crcs, step_crc, step_crcs, values_crc
from gradwatch.store.limits import LARGEST, MAX_MISSING, is_count
from gradwatch.store.next_steps import NextSteps
from gradwatch.store.schema import (
    BLOBS,
    CRC_FROM,
    NEXT_STEPS,
    OLDER_WIDTHS,
    PARTS,
    ROW_COUNTS,
    ROW_CRC_FROM,
    Layout,
)
from gradwatch.store.values import valid_meta, valid_step, valid_steps


class Integrity:
    """Tells intact rows from others, and counts the others.

    A row that is damaged or missing is counted once, however often its table is read.

    Attributes:
        left_out: the table and the key of each row that is damaged, or missing beside a row that tells of it.
        missing: of each table, the rows that are missing as its ids or the written number of rows tell.
        next_steps: as table ``meta`` tells them.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.left_out: set[tuple[str, object]] = set()
        self.missing: dict[str, int] = {}
        self.next_steps = NextSteps()
        self._has_rows_without_crc = False
        self._crc_from = 0 if layout.has_crc else LARGEST
        self._row_crc_from = 0 if layout.has_row_crc else LARGEST
        self._counts: dict[str, int] = {}

    @property
    def damaged_rows(self) -> int:
        return len(self.left_out) + sum(self.missing.values())

    # ---------------------------------------------------------------------------------- small tables

    def read_meta(self, rows: Sequence[Sequence[Any]]) -> dict[str, str]:
        """The intact rows of table ``meta``; some of them say what the other tables should hold.

        Args:
            rows: key, value, crc and row_crc of each.
        """
        begun = [row for row in rows if row[0] == CRC_FROM and type(row[1]) is str and row[2] == values_crc(row[:2])]
        self._has_rows_without_crc = bool(begun) and not self.layout.has_row_crc
        meta = {}
        for key, value in self.intact("meta", rows):
            if valid_meta(key, value):
                meta[key] = value
            else:
                self.left_out.add(("meta", key))
        if self.layout.has_crc:
            self._crc_from = _number(meta.get(CRC_FROM))
        if self.layout.has_row_crc:
            self._row_crc_from = _number(meta.get(ROW_CRC_FROM))
            self._counts = _counts(meta.get(ROW_COUNTS))
            self.next_steps = NextSteps.parse(meta.get(NEXT_STEPS))
            self.expect("meta", len(rows))
        return meta

    def intact(self, table: str, rows: Iterable[Sequence[Any]], key: int = 1) -> Iterator[Sequence[Any]]:
        """The values of the rows of a small table that are intact.

        Args:
            table: its name.
            rows: the values, crc and row_crc of each.
            key: how many of the values make up the key.
        """
        seen = set()
        for *values, crc, bound in rows:
            own = tuple(values[:key])
            number = values[0] if table == "attempt" else 0
            if own not in seen and self._is_intact(table, number, values, crc, bound):
                seen.add(own)
                yield values
            else:
                self.left_out.add((table, own[0] if key == 1 else own))

    def intact_events(self, rows: Iterable[Sequence[Any]]) -> dict[int, list[Any]]:
        """By id, the values of the intact rows of table ``event``, of which each has id, values, crc and row_crc.

        A rank that is not known is no part of the checksum, which is then that of a schema without ranks.
        """
        intact: dict[int, list[Any]] = {}
        there = set()
        for number, *values, crc, bound in rows:
            there.add(number)
            counted = values if values[-1] is not None else values[:-1]
            if number not in intact and self._is_intact("event", number, counted, crc, bound):
                intact[number] = values
            else:
                self.left_out.add(("event", number))
        if self.layout.has_row_crc:
            self._find_gaps("event", there, 1, max(intact, default=0))
        return intact

    def _is_intact(self, table: str, number: Any, values: Sequence[Any], crc: object, bound: object) -> bool:
        if any(isinstance(value, bytes) for value in values):
            return False
        if crc is None:
            return not self.layout.has_crc or self._has_rows_without_crc
        if type(crc) is not int or crc != values_crc(values):
            return False
        return not self.layout.has_row_crc or (is_count(number) and bound == row_crc(table, number, crc))

    def count(self, table: str) -> int:
        """How many rows a small table had, or the last id of another, when that was last written down; 0: not known."""
        return self._counts.get(table, 0)

    def expect(self, table: str, there: int) -> None:
        """Count the rows that a small table, of which ``there`` rows were read, lacks at its end or elsewhere."""
        self._add_missing(table, self.count(table) - there)

    def _add_missing(self, table: str, rows: int) -> None:
        self.missing[table] = max(self.missing.get(table, 0), min(rows, MAX_MISSING))

    def _find_gaps(self, table: str, there: set[Any], first: int, last: int) -> None:
        """Count the ids that are not there, from ``first`` to ``last`` and to the last that was ever written."""
        last = max(last, self.count(table))
        inside = sum(1 for number in there if type(number) is int and first <= number <= last)
        self._add_missing(table, last - first + 1 - inside)

    # ----------------------------------------------------------------------------------------- steps

    def intact_steps(
        self, columns: Mapping[str, Sequence[Any]], last: int, there: Sequence[Sequence[Any]] | None = None
    ) -> NDArray[np.bool_]:
        """Which rows of table ``step``, given by column, are intact; (rows,).

        Args:
            columns: id, `STEP_COLUMNS`, crc and row_crc.
            last: an id that is known to have been written, 0 if none is.
            there: id and crc of all rows, by id, of which these are some; None: these are all.
        """
        ids = columns["id"]
        intact = self.intact_chunk(columns)
        if self.layout.has_crc:
            # Rows without crc are older than the promise that ids are consecutive.
            rows = list(zip(ids, columns["crc"], strict=True)) if there is None else there
            first = next((number for number, crc in rows if crc is not None), 1)
            right = np.flatnonzero(intact)
            found = {number for number, _ in rows}
            self._find_gaps("step", found, first, max(last, ids[right[-1]] if len(right) else 0))
        return intact

    def intact_chunk(self, columns: Mapping[str, Sequence[Any]]) -> NDArray[np.bool_]:
        """`intact_steps` of some rows, without looking for rows that are missing beside them."""
        ids = columns["id"]
        intact = valid_steps(columns)
        chosen = np.flatnonzero(intact).tolist()
        intact[chosen] = self._match_steps(
            columns if len(chosen) == len(ids) else {name: [c[i] for i in chosen] for name, c in columns.items()}
        )
        intact &= first_time(ids)
        self.left_out |= {("step", ids[i]) for i in np.flatnonzero(~intact).tolist()}
        return intact

    def find_missing_steps(self, ids: NDArray[np.int64], first: int, last: int) -> None:
        """Count the ids of steps, from ``first`` to ``last``, that are neither there nor known to be damaged."""
        last = max(last, self.count("step"))
        damaged = sum(1 for table, number in self.left_out if table == "step" and number not in (None, ""))
        self._add_missing("step", last - first + 1 - len(ids) - damaged)

    def is_intact_digest(self, number: Any, values: Sequence[Any], crc: object, bound: object) -> bool:
        """Whether a row of table ``digest`` is intact, of whose blobs ``values`` has the checksums."""
        whole = is_count(number) and isinstance(values[1], str)
        return whole and self._is_intact("digest", number, values, crc, bound)

    def _match_steps(self, columns: Mapping[str, Sequence[Any]]) -> NDArray[np.bool_]:
        """Which rows of valid values have the checksums that they should have."""
        ids = np.array(columns["id"], np.int64)
        sums = step_crcs(columns)
        found = [_as_number(columns[name]) for name in ("crc", "row_crc")]
        older = (ids < self._crc_from) & (found[0] == ABSENT)
        unbound = ids < self._row_crc_from
        matched: NDArray[np.bool_] = (older & unbound) | (
            (found[0] == sums) & (unbound | (found[1] == row_crcs("step", columns["id"], sums.tolist())))
        )
        return matched

    def is_intact(self, row: Mapping[str, Any]) -> bool:
        """Whether a step is intact with all blobs of its id; a table without its row is counted and no reason why not.

        Args:
            row: the columns of table ``step`` by name, and those of the other tables by table and name: "layer.norm".
        """
        intact = self.is_intact_step(row)
        for table in BLOBS:
            intact = intact and self._match_row_of_blobs(table, row)
        if not intact:
            self.left_out.add(("step", row["id"]))
        return intact

    def is_intact_step(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of table ``step`` is intact."""
        return valid_step(row) and self._match_step(row)

    def _match_step(self, row: Mapping[str, Any]) -> bool:
        number, crc = row["id"], row["crc"]
        unbound = number < self._row_crc_from
        if crc is None:
            return unbound and bool(number < self._crc_from)
        return (
            type(crc) is int
            and crc == step_crc(row)
            and (unbound or self.is_bound("step", number, crc, row["row_crc"]))
        )

    def _match_row_of_blobs(self, table: str, row: Mapping[str, Any]) -> bool:
        number, crc = row["id"], row[f"{table}.crc"]
        blobs = [row[f"{table}.{name}"] for name in BLOBS[table]]
        unbound = number < self._row_crc_from
        if not any(value is not None for value in (crc, *blobs)):
            if (row["parts"] or 0) & PARTS[table]:
                self.left_out.add((table, number))
            return True
        if not _are_blobs(blobs):
            return False
        if crc is None:
            return unbound and bool(number < self._crc_from)
        right = type(crc) is bytes and crc == blobs_crc(number, row["step"], _counted(table, blobs, crc))
        return right and (unbound or self.is_bound(table, number, crc, row[f"{table}.row_crc"]))

    # ----------------------------------------------------------------------------------------- blobs

    def intact_blobs(self, table: str, stat: str, columns: Sequence[Sequence[Any]]) -> NDArray[np.bool_]:
        """Which blobs of one statistic are intact; (rows,).

        Args:
            table: one of blobs, for example ``layer``.
            stat: the column of the blobs.
            columns: the ids, steps, blobs, crc and row_crc of the rows.
        """
        ids, steps, blobs, crcs, bound = columns
        intact = np.array(
            [
                is_count(number) and is_count(step) and is_blob(blob) and (type(crc) is bytes or crc is None)
                for number, step, blob, crc in zip(ids, steps, blobs, crcs, strict=True)
            ],
            bool,
        )
        has_crc = np.array([crc is not None for crc in crcs], bool)
        intact &= has_crc | (np.array(ids, np.int64) < min(self._crc_from, self._row_crc_from))
        chosen = np.flatnonzero(intact & has_crc).tolist()
        if len(chosen) < len(ids):
            ids, steps, blobs, crcs, bound = ([column[i] for i in chosen] for column in columns)
        matched = match_blobs(ids, steps, blobs, crcs, BLOBS[table].index(stat))
        unbound = np.array(ids, np.int64) < self._row_crc_from
        intact[chosen] = matched & (unbound | (_as_number(bound) == row_crcs(table, ids, crcs)))
        intact &= first_time(columns[0])
        self.left_out |= {(table, columns[0][i]) for i in np.flatnonzero(~intact).tolist()}
        return intact

    def is_bound(self, table: str, number: Any, crc: Any, bound: Any) -> bool:
        """Whether a row is one of its table and its id, whatever its values."""
        known = is_count(number) and isinstance(crc, int | bytes)
        return known and self.layout.has_row_crc and bool(bound == row_crc(table, number, crc))


ABSENT = -1
"""Stands for a checksum that is no number."""


def _as_number(column: Sequence[Any]) -> NDArray[np.int64]:
    return np.array([value if type(value) is int else ABSENT for value in column], np.int64)


def is_blob(value: object) -> bool:
    """Whether a value is a blob of float32 numbers."""
    return type(value) is bytes and len(value) % 4 == 0


def _counted(table: str, blobs: Sequence[bytes | None], crc: bytes) -> Sequence[bytes | None]:
    """The blobs of a row that its checksums count: in a row from before schema 6, those of that schema."""
    width = OLDER_WIDTHS.get(table, len(blobs))
    return blobs[:width] if len(crc) == 4 * width and blobs[width:] == [None] * len(blobs[width:]) else blobs


def _are_blobs(values: Sequence[object]) -> bool:
    """Whether each value is null or a blob of float32 numbers."""
    return all(value is None or is_blob(value) for value in values)


def first_time(ids: Sequence[Any]) -> NDArray[np.bool_]:
    """False for an id that was there before, as where the pages of a damaged file lead to a row twice; (rows,).

    >>> first_time([7, 8, 7]).tolist()
    [True, True, False]
    """
    if len(set(ids)) == len(ids):
        return np.ones(len(ids), bool)
    seen: set[Any] = set()
    first = np.ones(len(ids), bool)
    for at, number in enumerate(ids):
        first[at] = number not in seen
        seen.add(number)
    return first


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) <= len(str(LARGEST)) else 0


def _counts(text: str | None) -> dict[str, int]:
    """The number of rows of each table that table ``meta`` tells of."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {table: count for table, count in found.items() if is_count(count)} if isinstance(found, dict) else {}
