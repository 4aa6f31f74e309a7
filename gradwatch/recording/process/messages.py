"""Messages from the training process to the recorder's process, as bytes: a line of JSON, then arrays of float64.

Neither side unpickles anything or needs torch. The first entry of the line is the kind of the message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Event, ParameterInfo, StepRecord
from gradwatch.recording.records import ClippingNumbers, Columns, LateNumbers, StepNumbers

Kind: TypeAlias = Literal[
    "admit", "dismiss", "flush", "held", "infos", "join", "late", "note", "opened", "put", "settle"
]
Part: TypeAlias = bytes | memoryview

_dumps = json.JSONEncoder(separators=(",", ":")).encode  # faster than `json.dumps`, which makes one each time

WHOLE_ARRAYS = ("layers", "weights", "updates", "ranks", "accumulation", "magnitudes", "sentinels")
"""The fields of a record that `plain_record` leaves out."""


def encode(kind: Kind, *values: Any) -> list[Part]:
    """A message without arrays."""
    return [_dumps([kind, *values]).encode() + b"\n"]


def encode_step(kind: Kind, optimizer: str, numbers: StepNumbers) -> list[Part]:
    """The message of a step of this optimizer: "held" if it may still be given a loss, "put" if it is complete."""
    count = len(numbers.stats["norm"])
    arrays = list(numbers.stats.values())
    if numbers.with_gradient is not None:
        arrays.append(np.asarray(numbers.with_gradient, np.float64))
    for columns in (numbers.weights, numbers.updates, numbers.magnitudes, numbers.sentinels):
        arrays += () if columns is None else columns.values()
    if numbers.with_update is not None:
        arrays.append(np.asarray(numbers.with_update, np.float64))
    line = _dumps(
        [
            kind,
            optimizer,
            numbers.step,
            numbers.wall_time,
            numbers.learning_rates,
            numbers.loss_scale,
            numbers.skipped,
            plain_late(numbers.late),
            list(numbers.stats),
            numbers.with_gradient is None,
            None if numbers.weights is None else list(numbers.weights),
            None if numbers.updates is None else list(numbers.updates),
            None if numbers.magnitudes is None else list(numbers.magnitudes),
            None if numbers.sentinels is None else list(numbers.sentinels),
            [numbers.micro_batches, numbers.first_norm],
            [len(array) for array in arrays],
        ]
    )
    table = arrays[0].base
    if isinstance(table, np.ndarray) and table.shape == (len(arrays), count) and _are_rows(arrays, table):
        arrays = [table.reshape(-1)]
    return [line.encode() + b"\n", *map(_bytes_of, arrays)]


def _are_rows(arrays: Sequence[NDArray[np.float64]], table: NDArray[np.float64]) -> bool:
    """Whether the arrays are the rows of a table in order, as `Measurement.collect` gives them: one copy takes all."""
    begins = [array.__array_interface__["data"][0] for array in (table, *arrays)]
    row = table.strides[0]
    return table.flags.c_contiguous and begins[1:] == [begins[0] + row * at for at in range(len(arrays))]


def _bytes_of(array: NDArray[np.float64]) -> Part:
    return np.ascontiguousarray(array, np.float64).data.cast("B") if len(array) else b""


def decode(message: bytes) -> tuple[str, list[Any], memoryview]:
    """Return the kind of a message, its other values, and its arrays as bytes."""
    end = message.index(b"\n")
    kind, *values = json.loads(message[:end])
    return kind, values, memoryview(message)[end + 1 :]


def decode_step(values: Sequence[Any], data: memoryview) -> tuple[str, StepNumbers]:
    """Return the optimizer and the numbers of the step that `encode_step` wrote."""
    optimizer, step, wall_time, rates, loss_scale, skipped, late, stats, has_all, *values = values
    weights, updates, magnitudes, sentinels, (micro_batches, first_norm), lengths = values
    every = np.frombuffer(data, np.float64)
    arrays = iter(np.split(every, np.cumsum(lengths)[:-1]) if lengths else ())

    def columns(names: Iterable[str] | None) -> Columns | None:
        return None if names is None else {name: next(arrays) for name in names}

    found = columns(stats) or {}
    with_gradient = None if has_all else next(arrays).astype(int).tolist()
    sampled, read, counted, few = map(columns, (weights, updates, magnitudes, sentinels))
    return optimizer, StepNumbers(
        step=step,
        wall_time=wall_time,
        stats=found,
        with_gradient=with_gradient,
        learning_rates=tuple(rates),
        loss_scale=loss_scale,
        skipped=skipped,
        late=late_of(late),
        weights=sampled,
        updates=read,
        magnitudes=counted,
        sentinels=few,
        with_update=None if read is None else next(arrays).astype(int).tolist(),
        micro_batches=micro_batches,
        first_norm=first_norm,
    )


def plain_late(late: LateNumbers) -> list[Any]:
    """`LateNumbers` as JSON has them."""
    return [late.loss, late.clip_fault, [astuple(clipping) for clipping in late.clippings]]


def late_of(plain: Sequence[Any]) -> LateNumbers:
    """The way back from `plain_late`."""
    loss, clip_fault, clippings = plain
    return LateNumbers(
        loss=loss, clip_fault=clip_fault, clippings=tuple(_clipping_of(*clipping) for clipping in clippings)
    )


def _clipping_of(max_norm: Any, norm_type: Any, clip_value: Any, coefficient: Any, cut_entries: int) -> ClippingNumbers:
    return ClippingNumbers(
        max_norm=max_norm,
        norm_type=norm_type,
        clip_value=clip_value,
        coefficient=coefficient,
        cut_entries=cut_entries,
    )


def plain_infos(infos: Iterable[ParameterInfo | None]) -> list[Any]:
    """Parameters as JSON has them; None for a position without one."""
    return [None if info is None else [info.name, info.shape, info.dtype] for info in infos]


def infos_of(plain: Iterable[Any]) -> list[ParameterInfo | None]:
    """The way back from `plain_infos`."""
    return [
        None if info is None else ParameterInfo(name=info[0], shape=tuple(info[1]), dtype=info[2]) for info in plain
    ]


def plain_event(event: Event) -> dict[str, Any]:
    """Every field of an event."""
    return {field.name: getattr(event, field.name) for field in fields(event)}


def plain_record(record: StepRecord) -> dict[str, Any]:
    """Every field of a record but the statistics of its parameters and ranks."""
    return {field.name: getattr(record, field.name) for field in fields(record) if field.name not in WHOLE_ARRAYS}


def record_of_plain(plain: dict[str, Any]) -> StepRecord:
    """The way back from `plain_record`."""
    return StepRecord(**plain | {"learning_rates": tuple(plain["learning_rates"])})
