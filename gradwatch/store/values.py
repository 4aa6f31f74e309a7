"""The values that a row may hold, and the conversion of rows to steps, events, attempts and parameters.

A checksum proves that a value is as it was written. These checks make sure that gradwatch writes such values, which
an untrusted store does not guarantee.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import (
    SEVERITIES,
    AccumulationStats,
    Event,
    Floats,
    LayerStats,
    MagnitudeStats,
    ParameterInfo,
    RankStats,
    SentinelStats,
    StepRecord,
    UpdateStats,
    WeightStats,
)
from gradwatch.store.limits import LARGEST, LATEST, is_count
from gradwatch.store.schema import ATTEMPT_COLUMNS, BLOBS, EVENT_COLUMNS, PARTS, STEP_COLUMNS

StatsT = TypeVar("StatsT")

COUNTS_IN_META = ("every", "total_steps", "world_size")
"""Keys of meta whose values are whole numbers."""

_WHOLE: set[type] = {int}
_REAL: set[type] = {float}
_TEXT: set[type] = {str}
_NULL: set[type] = {type(None)}

STEP_TYPES: dict[str, set[type]] = {
    "id": _WHOLE,
    "step": _WHOLE,
    "optimizer": _TEXT,
    "attempt": _WHOLE,
    "wall_time": _REAL,
    "total_norm": _REAL | _NULL,
    "max_norm": _REAL | _NULL,
    "norm_type": _REAL | _NULL,
    "clip_value": _REAL | _NULL,
    "clip_coef": _REAL | _NULL,
    "cut_entries": _WHOLE | _NULL,
    "nonfinite": _WHOLE,
    "loss": _REAL | _NULL,
    "learning_rate": _REAL | _NULL,
    "learning_rates": _TEXT | _NULL,
    "loss_scale": _REAL | _NULL,
    "skipped": _WHOLE,
    "clip_fault": _TEXT | _NULL,
    "update_norm": _REAL | _NULL,
    "weight_norm": _REAL | _NULL,
    "parts": _WHOLE | _NULL,
    "nan": _TEXT | _NULL,
}
"""The types that the columns of a step may have in Python."""

NAN_IN_STEP = {
    "total_norm",
    "max_norm",
    "norm_type",
    "clip_value",
    "clip_coef",
    "loss",
    "learning_rate",
    "loss_scale",
    "update_norm",
    "weight_norm",
}
"""The columns of a step that may be NaN. SQLite stores NaN as null, and column nan names them."""

_LIMITS = {"skipped": 1, "parts": sum(PARTS.values()), "wall_time": LATEST}
"""Columns of a step with a limit of their own; that of the other whole numbers is `LARGEST`."""

_EVENT_TYPES: dict[str, set[type]] = {
    "step": _WHOLE,
    "optimizer": _TEXT,
    "attempt": _WHOLE,
    "kind": _TEXT,
    "severity": _TEXT,
    "parameter": _TEXT | _NULL,
    "observed": _REAL | _NULL,
    "limit": _REAL | _NULL,
    "message": _TEXT,
    "until": _WHOLE | _NULL,
    "origin": _TEXT | _NULL,
    "nan": _TEXT | _NULL,
    "rank": _WHOLE | _NULL,
}
_ATTEMPT_TYPES: dict[str, set[type]] = {
    "attempt": _WHOLE,
    "first_step": _WHOLE,
    "started": _REAL,
    "ended": _REAL | _NULL,
    "reason": _TEXT | _NULL,
    "pid": _WHOLE,
    "host": _TEXT,
    "process": _TEXT | _NULL,
    "dropped": _WHOLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One process that wrote to a run."""

    attempt: int
    first_step: int
    started: float
    ended: float | None
    reason: str | None
    dropped: int


def _fits(row: Mapping[str, Any], types: Mapping[str, set[type]]) -> bool:
    """Whether the values of a row are of their types, and its whole numbers and times in range."""
    for name, allowed in types.items():
        value = row[name]
        if type(value) not in allowed or (type(value) is int and not 0 <= value <= _LIMITS.get(name, LARGEST)):
            return False
    return all(abs(row[name] or 0.0) <= LATEST for name in ("wall_time", "started", "ended") if name in types)


def valid_step(row: Mapping[str, Any]) -> bool:
    """Whether a row of table ``step`` holds nothing but valid values."""
    return _fits(row, STEP_TYPES) and _has_valid_texts(row)


def _has_valid_texts(row: Mapping[str, Any]) -> bool:
    nan = set(row["nan"].split(",")) if row["nan"] else set()
    known = nan <= NAN_IN_STEP and all(row[name] is None for name in nan)
    complete = all(row[name] is not None or name in nan for name in ("total_norm", "clip_coef"))
    return known and complete and (row["learning_rates"] is None or _rates(row["learning_rates"]) is not None)


def valid_steps(columns: Mapping[str, Sequence[Any]]) -> NDArray[np.bool_]:
    """`valid_step` of many rows, given by column; (rows,)."""
    valid = np.ones(len(columns["id"]), bool)
    for name, allowed in STEP_TYPES.items():
        if not allowed.issuperset(map(type, columns[name])):
            valid &= [type(value) in allowed for value in columns[name]]
    for name, allowed in STEP_TYPES.items():
        if valid.any() and (int in allowed or name == "wall_time"):
            column = (
                columns[name] if valid.all() else [v if ok else 0 for v, ok in zip(columns[name], valid, strict=True)]
            )
            valid &= _in_range(column, -LATEST if name == "wall_time" else 0.0, _LIMITS.get(name, LARGEST))
    valid[_with_invalid_texts(columns, valid)] = False
    return valid


def _in_range(column: Sequence[Any], least: float, most: float) -> NDArray[np.bool_]:
    """Which numbers of a column are in range, or null; (rows,)."""
    numbers = np.array(column, np.float64)
    valid: NDArray[np.bool_] = np.isnan(numbers) | ((numbers >= least) & (numbers <= most))
    if most == LARGEST:  # float64 rounds the next whole number down to it
        at_most = np.flatnonzero(numbers == most).tolist()
        valid[at_most] = [column[at] <= most for at in at_most]
    return valid


def _with_invalid_texts(columns: Mapping[str, Sequence[Any]], valid: NDArray[np.bool_]) -> list[int]:
    """The rows whose texts are no list of learning rates, or do not explain the nulls beside them.

    Those that are not ``valid`` already need not be told, for their texts may be anything.
    """
    known = {text: text is None or _rates(text) is not None for text in set(columns["learning_rates"])}
    wrong = [at for at, text in enumerate(columns["learning_rates"]) if not known[text]]
    needed = zip(columns["nan"], columns["total_norm"], columns["clip_coef"], strict=True)
    for at, (nan, norm, coef) in enumerate(needed):
        if (
            valid[at]
            and (nan or norm is None or coef is None)
            and not _has_valid_texts(
                {name: columns[name][at] for name in ("nan", *NAN_IN_STEP)} | {"learning_rates": None}
            )
        ):
            wrong.append(at)
    return wrong


def _rates(text: str) -> list[float] | None:
    """The learning rates of all groups; None if the text is something else."""
    found = _json(text)
    if not isinstance(found, list) or not all(type(rate) in (int, float) for rate in found):
        return None
    return found


def _json(text: object) -> Any:
    """What a text holds as JSON; None if it is not JSON, or holds a whole number that float64 does not."""
    try:
        return _from_json(str(text))
    except (ValueError, RecursionError):
        return None


def _whole(digits: str) -> int:
    value = int(digits)
    if abs(value) > LARGEST:
        raise ValueError(f"{digits} is too large")
    return value


_from_json = json.JSONDecoder(parse_int=_whole).decode
"""As `json.loads`, which makes a new decoder for each of ten thousand rows."""


def attempt_of(values: Sequence[Any]) -> Attempt | None:
    """An attempt of its `ATTEMPT_COLUMNS`; None if they hold something that no attempt has."""
    row = dict(zip(ATTEMPT_COLUMNS, values, strict=True))
    if not _fits(row, _ATTEMPT_TYPES):
        return None
    return Attempt(**{field.name: row[field.name] for field in fields(Attempt)})


def event_of(values: Sequence[Any]) -> Event | None:
    """An event of its `EVENT_COLUMNS`; None if they hold something that no event has."""
    row = dict(zip(EVENT_COLUMNS, values, strict=True))
    if not _fits(row, _EVENT_TYPES) or row["severity"] not in SEVERITIES:
        return None
    nan = set((row.pop("nan") or "").split(",")) - {""}
    if not nan <= {"observed", "limit"}:
        return None
    return Event(**row | dict.fromkeys(nan, math.nan))


def parameter_of(name: object, shape: object, dtype: object) -> ParameterInfo | None:
    """A parameter; None if its row holds something that no parameter has.

    >>> parameter_of("w", "[2, 3]", "float32")
    ParameterInfo(name='w', shape=(2, 3), dtype='float32')
    >>> parameter_of("w", "[-2]", "float32") is None
    True
    """
    sizes = _json(shape)
    if not isinstance(sizes, list) or not all(map(is_count, sizes)) or not is_count(math.prod(sizes)):
        return None
    if type(name) is not str or type(dtype) is not str:
        return None
    return ParameterInfo(name=name, shape=tuple(sizes), dtype=dtype)


def damaged_parameter(position: int) -> ParameterInfo:
    """Stands for a parameter whose row is damaged or lost."""
    return ParameterInfo(name=f"(damaged {position})", shape=(0,))


def settings_of(text: object) -> dict[str, Any] | None:
    """The settings of an optimizer; None if the text is something else."""
    found = _json(text)
    return found if isinstance(found, dict) else None


def valid_meta(key: object, value: object) -> bool:
    """Whether a row of table ``meta`` holds texts, and a number where one is expected."""
    if type(key) is not str or type(value) is not str:
        return False
    return key not in COUNTS_IN_META or (value.isdecimal() and len(value) <= len(str(LARGEST)))


def valid_table(stat: str, table: Floats) -> NDArray[np.bool_]:
    """Which rows of a statistic hold only values that it can have: counts are finite and not negative."""
    if stat not in _COUNTS:
        return np.ones(len(table), bool)
    with np.errstate(invalid="ignore"):
        wrong = (table < 0) | np.isinf(table)
    valid: NDArray[np.bool_] = np.logical_not(np.any(wrong, axis=1))
    return valid


_COUNTS = (
    "nonfinite",
    "zeros",
    "differing",
    "differs_in",
    "before_reduction",
    "micro_batches",
    "filled",
    "cells",
    "position",
)


def record_of(row: dict[str, Any], infos: tuple[ParameterInfo, ...]) -> StepRecord | None:
    """The record of a step with the blobs of the same id; None if they can't belong to one.

    Args:
        row: the columns of table ``step`` by name, valid ones, and the blobs by table and name: "layer.norm".
        infos: the parameters of its optimizer.
    """
    row |= dict.fromkeys(row["nan"].split(",") if row["nan"] else (), math.nan)
    found = {table: _stats(table, row) for table in BLOBS}
    magnitude = found.pop("magnitude")
    if not all(map(_belong_together, found.values())):
        return None
    layer, weight, rank, update, accumulation, sentinel = found.values()
    layers = _layers(layer, infos) if layer else None
    magnitudes = _made(MagnitudeStats, magnitude)
    if magnitudes is not None and not _are_counts(magnitudes, layers):
        return None
    if layers is not None and not _fit_the_layers(weight, update, rank, layers):
        return None
    if sentinel and not _has_positions(sentinel["position"], layers):
        return None
    return StepRecord(
        **{name: row[name] for name in _OF_RECORD},
        learning_rates=_learning_rates(row),
        skipped=bool(row["skipped"]),
        layers=layers,
        weights=_made(WeightStats, weight),
        updates=_made(UpdateStats, update),
        ranks=_made(RankStats, rank),
        accumulation=_made(AccumulationStats, accumulation),
        magnitudes=magnitudes,
        sentinels=_made(SentinelStats, sentinel),
    )


_OF_RECORD = [n for n in STEP_COLUMNS if n not in {"learning_rate", "learning_rates", "skipped", "parts", "nan"}]


def _learning_rates(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Those of all groups; the one rate where the groups share it."""
    rates = _rates(row["learning_rates"]) if row["learning_rates"] else None
    if rates is not None:
        return tuple(rates)
    return () if row["learning_rate"] is None else (row["learning_rate"],)


def _stats(table: str, row: Mapping[str, Any]) -> dict[str, Floats]:
    """The statistics of a step in one table, by name; empty if it has no row there."""
    blobs = {name: row[f"{table}.{name}"] for name in BLOBS[table]}
    return {name: np.frombuffer(blob, "<f4") for name, blob in blobs.items() if blob is not None}


def _made(kind: Callable[..., StatsT], stats: Mapping[str, Floats]) -> StatsT | None:
    return kind(**stats) if stats else None


def _belong_together(stats: Mapping[str, Floats]) -> bool:
    """Whether the statistics of a step are of as many parameters or ranks, and hold values that they can have."""
    lengths = {len(values) for values in stats.values()}
    counted = [name for name in _COUNTS if name in stats]
    return len(lengths) <= 1 and all(valid_table(name, stats[name][None]).all() for name in counted)


def _are_counts(magnitudes: MagnitudeStats, layers: LayerStats | None) -> bool:
    """Whether these are counts, and of no more parameters than the step has."""
    most = len(magnitudes.filled) if layers is None else len(layers.parameters)
    return len(magnitudes.filled) <= most and magnitudes.counts() is not None


def _has_positions(position: Floats, layers: LayerStats | None) -> bool:
    """Whether these are positions of parameters that the step has."""
    most = LARGEST if layers is None else len(layers.parameters)
    return not np.isnan(position).any() and bool(are_positions(position[None], most)[0])


def are_positions(table: Floats, length: int) -> NDArray[np.bool_]:
    """Which rows, filled up with NaN, hold ascending positions of parameters of which there are ``length``."""
    if not table.shape[1]:
        return np.zeros(len(table), bool)
    there = ~np.isnan(table)
    valid = there[:, 0] & ~(there & ((table >= length) | (table != np.floor(table)))).any(axis=1)
    gaps = (there[:, 1:] & ~there[:, :-1]).any(axis=1)
    found: NDArray[np.bool_] = valid & ~gaps & ~(np.diff(table, axis=1) <= 0).any(axis=1)
    return found


def _fit_the_layers(
    weight: Mapping[str, Floats], update: Mapping[str, Floats], rank: Mapping[str, Floats], layers: LayerStats
) -> bool:
    """Whether weights and updates are of no more parameters, and the ranks differ in one of them."""
    count = len(layers.parameters)
    if any(norms and len(norms["weight_norm"]) > count for norms in (weight, update)):
        return False
    return not rank or not (rank["differs_in"] >= count).any()


def _layers(stats: Mapping[str, Floats], infos: tuple[ParameterInfo, ...]) -> LayerStats:
    length = len(stats["norm"])
    lost = tuple(map(damaged_parameter, range(len(infos), length)))
    return LayerStats(parameters=infos[:length] + lost, **stats)
