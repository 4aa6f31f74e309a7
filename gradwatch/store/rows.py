"""Turns records, events and facts into rows with their checksums."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gradwatch.record import Event, ParameterInfo, StepRecord
from gradwatch.store.checksums import blobs_crc, row_crc, step_crc, values_crc
from gradwatch.store.digests import Digest
from gradwatch.store.schema import BLOBS, CHECKSUMS, EVENT_COLUMNS, FIELDS, PARTS, STEP_COLUMNS

Row: TypeAlias = tuple[Any, ...]


def with_checksums(table: str, values: Sequence[Any], number: int = 0) -> Row:
    """A row of a small table: its values, then crc and row_crc.

    Args:
        table: its name.
        values: of the row.
        number: its id, 0 in a table whose key is text.
    """
    crc = values_crc(values)
    return (*values, crc, row_crc(table, number, crc))


def text(value: str) -> str:
    r"""A text as SQLite can keep it, which is as UTF-8.

    >>> text("a\udc80")
    'a\\udc80'
    """
    return value.encode("utf-8", "backslashreplace").decode()


def step_rows(records: Iterable[StepRecord], first: int) -> dict[str, list[Row]]:
    """The rows of records by table; the first record has the id ``first``.

    The columns are `step_columns` of the tables.
    """
    rows: dict[str, list[Row]] = {"step": [], **{table: [] for table in BLOBS}}
    for number, record in enumerate(records, first):
        rows["step"].append(_step_row(record, number))
        for table in BLOBS:
            stats = getattr(record, FIELDS[table])
            if stats is not None:
                rows[table].append(_row_of_blobs(table, stats, number, record.step))
    return rows


STEP_ROW_COLUMNS = {
    "step": ("id", *STEP_COLUMNS, *CHECKSUMS),
    **{table: ("id", *stats, *CHECKSUMS) for table, stats in BLOBS.items()},
}
"""The columns of the rows of `step_rows`."""


def _step_row(record: StepRecord, number: int) -> Row:
    rates = record.learning_rates
    row = {
        "id": number,
        "step": record.step,
        "optimizer": text(record.optimizer),
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
        "update_norm": record.update_norm,
        "weight_norm": record.weight_norm,
        "parts": sum(bit for table, bit in PARTS.items() if getattr(record, FIELDS[table]) is not None),
    }
    row["nan"] = _nan_names(row)
    crc = step_crc(row)
    return (*row.values(), crc, row_crc("step", number, crc))


def _row_of_blobs(table: str, stats: object, number: int, step: int) -> Row:
    columns = [getattr(stats, name) for name in BLOBS[table]]
    blobs = [None if column is None else np.ascontiguousarray(column, "<f4").tobytes() for column in columns]
    crc = blobs_crc(number, step, blobs)
    return (number, *blobs, crc, row_crc(table, number, crc))


def digest_row(digest: Digest) -> Row:
    """The row of a digest: `DIGEST_COLUMNS`, crc and row_crc."""
    crcs = zlib.crc32(digest.steps), None if digest.layers is None else zlib.crc32(digest.layers)
    *_, crc, bound = with_checksums("digest", (digest.last_id, digest.optimizer, *crcs), digest.last_id)
    return (digest.last_id, digest.optimizer, digest.steps, crcs[0], digest.layers, crcs[1], crc, bound)


def event_row(event: Event, number: int) -> Row:
    """The row of an event: id, `EVENT_COLUMNS`, crc and row_crc."""
    row = {name: getattr(event, name) for name in EVENT_COLUMNS if name != "nan"}
    rank = row.pop("rank")
    for name in ("observed", "limit"):  # SQLite does not keep the sign of a zero
        row[name] = None if row[name] is None else float(row[name]) + 0.0
    for name in ("optimizer", "kind", "parameter", "message"):
        row[name] = None if row[name] is None else text(row[name])
    values = (*row.values(), _nan_names(row))
    # A rank that is not known is left out of the checksum, which is then that of a schema without ranks.
    crc = values_crc(values if rank is None else (*values, rank))
    return (number, *values, rank, crc, row_crc("event", number, crc))


def _nan_names(row: Mapping[str, Any]) -> str | None:
    names = [name for name, value in row.items() if isinstance(value, float) and math.isnan(value)]
    return ",".join(names) or None


def parameter_rows(optimizer: str, infos: Sequence[ParameterInfo], first: int) -> list[Row]:
    """The rows of parameters at positions ``first``, ``first`` + 1, ..."""
    return [
        with_checksums("parameter", (text(optimizer), at, text(info.name), json.dumps(info.shape), info.dtype))
        for at, info in enumerate(infos, first)
    ]
