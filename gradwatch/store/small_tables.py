"""Reads the small tables of a store: meta, attempt, optimizer, parameter, event and detector_state."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gradwatch.errors import StoreDamaged
from gradwatch.record import Event, ParameterInfo
from gradwatch.store.integrity import Integrity
from gradwatch.store.limits import is_count
from gradwatch.store.opening import Database
from gradwatch.store.schema import (
    ATTEMPT_COLUMNS,
    CHECKSUMS,
    EVENT_COLUMNS,
    NEXT_STEPS,
    OPTIMIZER_COLUMNS,
    PARAMETER_COLUMNS,
    ROW_COUNTS,
    ROW_CRC_FROM,
)
from gradwatch.store.values import Attempt, attempt_of, damaged_parameter, event_of, parameter_of, settings_of

_OF_THE_STORE = (NEXT_STEPS, ROW_COUNTS, ROW_CRC_FROM)
"""Keys of meta that say something of the store and not of the run."""

MAX_OPTIMIZERS = 20_000
"""More optimizers than that no training has, and no view could show them."""


class SmallTables:
    """The small tables of one store."""

    def __init__(self, db: Database, integrity: Integrity) -> None:
        self._db, self._integrity = db, integrity
        self._parameters: dict[str, tuple[ParameterInfo, ...]] = {}
        self._parameters_read_at = -1

    def meta(self) -> dict[str, str]:
        """Facts about the run as a whole; has to be read before any other table."""
        meta = self._integrity.read_meta(self._rows("meta", ("key", "value")))
        if self._db.layout.has_row_crc and ROW_COUNTS not in meta and self._has_attempt():
            self._integrity.left_out.add(("meta", ROW_COUNTS))
        return {key: value for key, value in meta.items() if key not in _OF_THE_STORE}

    def _has_attempt(self) -> bool:
        """Whether an attempt was begun, which also writes the numbers of rows."""
        return bool(self._db.rows("select 1 from attempt not indexed limit 1"))

    def attempts(self) -> list[Attempt]:
        """The attempts in order."""
        rows = self._intact("attempt", ATTEMPT_COLUMNS, "order by attempt")
        return self._valid("attempt", {row[0]: attempt_of(row) for row in rows})

    def optimizers(self) -> dict[str, str]:
        """The name of each optimizer with the name of its class."""
        return {name: kind for name, kind, _ in self._optimizers()}

    def settings(self, optimizer: str) -> dict[str, Any]:
        """The defaults that an optimizer was made with; empty if they are not known."""
        rows = [(name, settings) for name, _, settings in self._optimizers() if name == optimizer]
        found = self._valid("optimizer", {name: settings_of(settings) for name, settings in rows})
        return found[0] if found else {}

    def _optimizers(self) -> list[Sequence[Any]]:
        rows = self._intact("optimizer", OPTIMIZER_COLUMNS, "order by rowid")
        if len(rows) > MAX_OPTIMIZERS:
            raise StoreDamaged(f"{str(self._db.path)!r} has {len(rows)} optimizers; expected at most {MAX_OPTIMIZERS}.")
        found = {name: (name, kind, text) if type(name) is type(kind) is str else None for name, kind, text in rows}
        return self._valid("optimizer", found)

    def parameters(self, optimizer: str) -> tuple[ParameterInfo, ...]:
        """The parameters of an optimizer by position; the name of a damaged one says so."""
        now = self._db.data_version()
        if now != self._parameters_read_at:
            self._parameters = self._read_parameters()
            self._parameters_read_at = now
        return self._parameters.get(optimizer, ())

    def parameters_alone(self, optimizer: str) -> tuple[ParameterInfo, ...]:
        """`parameters` of one optimizer without reading those of the others, for a run with very many."""
        rows = self._rows("parameter", PARAMETER_COLUMNS, "where optimizer = ? order by position", optimizer)
        return self._by_optimizer(rows, max(len(rows), self._integrity.count("parameter"))).get(optimizer, ())

    def _read_parameters(self) -> dict[str, tuple[ParameterInfo, ...]]:
        rows = self._rows("parameter", PARAMETER_COLUMNS, "order by optimizer, position")
        self._integrity.expect("parameter", len(rows))
        return self._by_optimizer(rows, max(len(rows), self._integrity.count("parameter")))

    def _by_optimizer(self, rows: Sequence[Sequence[Any]], most: int) -> dict[str, tuple[ParameterInfo, ...]]:
        """The parameters of each optimizer by position, of which there are ``most`` at most."""
        infos = {
            (optimizer, position): parameter_of(name, shape, dtype)
            for optimizer, position, name, shape, dtype in self._integrity.intact("parameter", rows, key=2)
            if type(optimizer) is str and is_count(position) and position < most
        }
        lengths = Counter(optimizer for optimizer, *_ in rows)
        for optimizer, position in infos:
            lengths[optimizer] = max(lengths[optimizer], position + 1)
        return {name: self._in_order(name, length, infos) for name, length in lengths.items()}

    def _in_order(
        self, optimizer: str, length: int, infos: Mapping[tuple[str, int], ParameterInfo | None]
    ) -> tuple[ParameterInfo, ...]:
        """The parameters of an optimizer; a damaged or lost row keeps its place, for the blobs have it."""
        own = [infos.get((optimizer, at)) for at in range(length)]
        self._integrity.left_out |= {("parameter", (optimizer, at)) for at, info in enumerate(own) if info is None}
        return tuple(info or damaged_parameter(at) for at, info in enumerate(own))

    def events(self) -> list[Event]:
        """What the detectors found, in order."""
        rows = self._integrity.intact_events(self._rows("event", ("id", *EVENT_COLUMNS), "order by id"))
        return self._valid("event", {number: event_of(values) for number, values in rows.items()})

    def detector_state(self, optimizer: str, version: str) -> tuple[int, bytes] | None:
        """The last state of an optimizer's detectors and the id of the last step that they had seen.

        None if there is none, if detectors of another version left it, or if it is damaged.
        """
        if not self._db.layout.has_row_crc:
            return None
        columns = ("optimizer", "last_id", "version", "state")
        rows = self._rows("detector_state", columns, "where optimizer = ?", optimizer)
        if not rows:
            self._find_lost_states()
        states = {zlib.crc32(row[3]): row[3] for row in rows if isinstance(row[3], bytes)}
        # The state is a part of the checksum by its own; one that is no bytes matches none.
        summed = [
            (*values, zlib.crc32(state) if isinstance(state, bytes) else None, crc, bound)
            for *values, state, crc, bound in rows
        ]
        for name, last, written_by, crc in self._integrity.intact("detector_state", summed):
            state = states[crc]
            if name == optimizer and written_by == version:
                return last, state
        return None

    def _find_lost_states(self) -> None:
        """Count the states that are missing, and those of no optimizer: damage to its name hides a state."""
        keys = self._db.rows("select optimizer from detector_state not indexed")
        names = self.optimizers()
        self._integrity.expect("detector_state", len(keys))
        self._integrity.left_out |= {("detector_state", key) for (key,) in keys if key not in names}

    def _rows(self, table: str, columns: Sequence[str], rest: str = "", *values: object) -> list[tuple[Any, ...]]:
        selected = select(self._db, table, (*columns, *CHECKSUMS))
        # An index might lead elsewhere.
        return self._db.rows(f"select {selected} from {table} not indexed {rest}", *values)

    def _intact(self, table: str, columns: Sequence[str], rest: str) -> list[Sequence[Any]]:
        rows = self._rows(table, columns, rest)
        self._integrity.expect(table, len({row[0] for row in rows}))
        return list(self._integrity.intact(table, rows))

    def _valid(self, table: str, found: dict[Any, Any]) -> list[Any]:
        """Those that could be made of a row; the others count as damaged."""
        self._integrity.left_out |= {(table, key) for key, value in found.items() if value is None}
        return [value for value in found.values() if value is not None]


def select(db: Database, table: str, columns: Sequence[str]) -> str:
    """What to select for columns of a table; null for those that an older schema lacks."""
    has = db.layout.has_table(table)
    return ", ".join(f'{table}."{name}"' if has and db.layout.has_column(table, name) else "null" for name in columns)
