"""Columns of table ``step`` as arrays. One that has the same value in every row takes no memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

WHOLE = ("id", "step", "attempt", "nonfinite", "skipped")

REAL = (
    "wall_time",
    "total_norm",
    "max_norm",
    "norm_type",
    "clip_value",
    "clip_coef",
    "cut_entries",
    "loss",
    "learning_rate",
    "loss_scale",
    "update_norm",
    "weight_norm",
)

TEXTS = ("optimizer", "learning_rates", "clip_fault")

LOGGED = "loss_logged"
"""Whether a loss was logged. Here NaN stands for null, and this tells a loss that is NaN from none."""

Columns: TypeAlias = dict[str, NDArray[Any]]


def is_of_one_value(column: NDArray[Any]) -> bool:
    """Whether a column is held as one value: most of a long run's are, and so take no memory.

    >>> is_of_one_value(np.broadcast_to(np.array(2.0), 3)), is_of_one_value(np.array([2.0, 2.0]))
    (True, False)
    """
    return column.ndim == 1 and len(column) > 1 and column.strides == (0,)


def each(function: Callable[..., NDArray[Any]], *columns: NDArray[Any]) -> NDArray[Any]:
    """A function of the entries of columns, computed once where each column is of one value.

    >>> is_of_one_value(each(np.sqrt, np.broadcast_to(np.array(4.0), 3)))
    True
    """
    if columns and all(map(is_of_one_value, columns)):
        return np.broadcast_to(function(*(column[:1] for column in columns)), columns[0].shape)
    return function(*columns)


def equals(texts: NDArray[Any], text: str) -> NDArray[np.bool_]:
    """Which entries of a column of texts are this one."""
    return each(lambda found: np.asarray(found == text, bool), texts)


class JoinedColumn:
    """A column whose parts come one after the other; of one value as long as all parts have the same.

    >>> column = JoinedColumn(4)
    >>> column.extend(np.broadcast_to(np.array(1.0), 3))
    >>> is_of_one_value(column.whole())
    True
    >>> column.extend(np.array([2.0, 3.0]))
    >>> column.whole().tolist()
    [1.0, 1.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, room: int, table: NDArray[Any] | None = None) -> None:
        self._room, self._rows = room, 0
        self._value: NDArray[Any] | None = None  # of all rows so far, (1,)
        self._table = table

    def extend(self, part: NDArray[Any]) -> None:
        if not self._rows and is_of_one_value(part):
            self._value = part[:1].copy()
        if self._value is None or not _holds_only(part, self._value[0]):
            table = self._with_room(self._rows + len(part), part.dtype)
            table[self._rows : self._rows + len(part)] = part
        self._rows += len(part)

    def whole(self) -> NDArray[Any]:
        if self._value is not None:
            return np.broadcast_to(self._value, self._rows)
        assert self._table is not None
        return self._table[: self._rows]

    def _with_room(self, rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
        """The table with room for this many rows. Memory that is never written to is not taken."""
        before = self._table if self._value is None else self._value
        if self._table is None or rows > len(self._table):
            held = 0 if self._table is None else len(self._table)
            self._table = np.empty(max(rows, self._room, 2 * held), kind)
        if before is not None and before is not self._table:
            self._table[: self._rows] = before[: self._rows]
        self._value = None
        return self._table


def _holds_only(column: NDArray[Any], value: Any) -> bool:
    few = column[:1] if is_of_one_value(column) else column
    is_nan = isinstance(value, np.floating) and np.isnan(value)
    return bool(np.isnan(few).all() if is_nan else (few == value).all())


def with_nan(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns of table ``step`` with NaN for null where the row says so."""
    filled: dict[str, Any] = {name: list(column) for name, column in columns.items()}
    for at, names in enumerate(columns["nan"]):
        for name in names.split(",") if names else ():
            filled[name][at] = math.nan
    return filled


def step_arrays(columns: Mapping[str, Sequence[Any]]) -> Columns:
    """The columns of table ``step``, with NaN where the row says so, as arrays: null is NaN, texts are objects."""
    arrays: Columns = {name: np.array(columns[name], np.int64) for name in WHOLE}
    arrays |= {name: np.array(columns[name], np.float64) for name in REAL}
    arrays[LOGGED] = np.array([loss is not None for loss in columns["loss"]], bool)
    for name in TEXTS:
        arrays[name] = np.empty(len(columns[name]), object)
        arrays[name][:] = columns[name]
    return arrays
