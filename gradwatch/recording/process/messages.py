"""Messages from the training process to the recorder's process, as bytes: a head, then arrays of float64.

The first entry of the head is the kind of the message. The head of a step, which comes thousands of times, is written
by `marshal`; all others are a line of JSON. Both processes run the same Python, and no one else can reach the memory
between them. Neither side unpickles anything or needs torch.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed import ParameterPart
from gradwatch.record import Event, ParameterInfo, StepRecord
from gradwatch.recording.records import ClippingNumbers, Columns, LateNumbers, OwnTotals, StepNumbers

Kind: TypeAlias = Literal[
    "admit", "dismiss", "flush", "held", "infos", "join", "late", "note", "opened", "put", "settle", "sizes"
]
Part: TypeAlias = bytes | memoryview

QUICK = b"="
"""The first byte of a head by `marshal`; its length follows, in `LENGTH` bytes."""

LENGTH = 4

WHOLE_ARRAYS = ("layers", "weights", "updates", "ranks", "accumulation", "magnitudes", "sentinels")
"""The fields of a record that `plain_record` leaves out."""


def encode(kind: Kind, *values: Any) -> list[Part]:
    """A message without arrays."""
    return [json.dumps([kind, *values], separators=(",", ":")).encode() + b"\n"]


def encode_quick(kind: Kind, *values: Any) -> list[Part]:
    """The same in a tenth of the time, for plain values: no subclasses of numbers, no tuple that is to be a list."""
    head = marshal.dumps((kind, *values))
    return [QUICK + len(head).to_bytes(LENGTH, "little") + head]


def encode_step(kind: Kind, optimizer: str, numbers: StepNumbers, settled: Sequence[str] = ()) -> list[Part]:
    """The message of a step of this optimizer: "held" if it may still be given a loss, "put" if it is complete.

    ``settled``: optimizers whose held step is complete as it is.
    """
    table = _without_gaps(numbers.table)
    arrays = _arrays_beside(table, numbers)
    own = numbers.own
    lengths = tuple(map(len, arrays))
    if len(arrays) > 1:  # most are short, and each costs more to hand on than to copy
        arrays = [np.concatenate(arrays)]
    head = encode_quick(
        kind,
        tuple(settled),
        optimizer,
        numbers.step,
        numbers.wall_time,
        numbers.learning_rates,
        numbers.loss_scale,
        numbers.skipped,
        plain_late(numbers.late),
        tuple(numbers.stats),
        None if table is None else (*table.shape, table is not numbers.table),
        numbers.with_gradient is None,
        *[None if columns is None else tuple(columns) for columns in _columns_of(numbers)],
        (numbers.micro_batches, numbers.first_norm),
        None if own is None else (own.norm, own.nonfinite, own.before_reduction),
        lengths,
    )
    return [*head, *map(_bytes_of, arrays if table is None else (table, *arrays))]


def _columns_of(numbers: StepNumbers) -> tuple[Columns | None, ...]:
    return numbers.weights, numbers.updates, numbers.magnitudes, numbers.sentinels


def _arrays_beside(table: NDArray[np.float64] | None, numbers: StepNumbers) -> list[NDArray[np.float64]]:
    """What a step has beside its table, or without one: the arrays in the order in which `decode_step` takes them."""
    arrays = [] if table is not None else list(numbers.stats.values())
    if numbers.with_gradient is not None:
        arrays.append(np.asarray(numbers.with_gradient, np.float64))
    for columns in _columns_of(numbers):
        arrays += () if columns is None else columns.values()
    if numbers.with_update is not None:
        arrays.append(np.asarray(numbers.with_update, np.float64))
    return arrays


def _without_gaps(table: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """The table or its transpose, whichever lies in memory without gaps, so that one copy takes all."""
    if table is None or not table.size:
        return None
    if table.flags.c_contiguous:
        return table
    return table.T if table.flags.f_contiguous else None


def _bytes_of(array: NDArray[np.float64]) -> Part:
    return np.ascontiguousarray(array, np.float64).data.cast("B") if len(array) else b""


def decode(message: bytes) -> tuple[str, Sequence[Any], memoryview]:
    """Return the kind of a message, its other values, and its arrays as bytes."""
    if message[:1] == QUICK:
        begin = 1 + LENGTH
        end = begin + int.from_bytes(message[1:begin], "little")
        kind, *values = marshal.loads(message[begin:end])
        return kind, values, memoryview(message)[end:]
    end = message.index(b"\n")
    kind, *values = json.loads(message[:end])
    return kind, values, memoryview(message)[end + 1 :]


def decode_step(values: Sequence[Any], data: memoryview) -> tuple[str, StepNumbers]:
    """Return the optimizer and the numbers of the step that `encode_step` wrote; ``values`` begin after ``settled``."""
    optimizer, step, wall_time, rates, loss_scale, skipped, late, stats, shape, has_all, *values = values
    weights, updates, magnitudes, sentinels, (micro_batches, first_norm), own, lengths = values
    every = np.frombuffer(data, np.float64)
    in_table = 0 if shape is None else shape[0] * shape[1]
    arrays = iter(np.split(every[in_table:], np.cumsum(lengths)[:-1]) if lengths else ())

    def columns(names: Iterable[str] | None) -> Columns | None:
        return None if names is None else {name: next(arrays) for name in names}

    table = None
    if shape is not None:
        rows, width, is_transposed = shape
        table = every[:in_table].reshape(rows, width)
        table = table.T if is_transposed else table
    found = (columns(stats) or {}) if table is None else dict(zip(stats, table, strict=True))
    with_gradient = None if has_all else next(arrays).astype(int).tolist()
    sampled, read, counted, few = map(columns, (weights, updates, magnitudes, sentinels))
    return optimizer, StepNumbers(
        step=step,
        wall_time=wall_time,
        stats=found,
        with_gradient=with_gradient,
        learning_rates=rates,
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
        table=table,
        own=None if own is None else OwnTotals(norm=own[0], nonfinite=own[1], before_reduction=own[2]),
    )


def plain_late(late: LateNumbers) -> list[Any]:
    """`LateNumbers` as plain values."""
    return [late.loss, late.clip_fault, [_plain_clipping(clipping) for clipping in late.clippings]]


def _plain_clipping(clipping: ClippingNumbers) -> tuple[Any, ...]:
    """The numbers in the order of `_clipping_of`; `dataclasses.astuple` copies deeply, in ten times the time."""
    return (clipping.max_norm, clipping.norm_type, clipping.clip_value, clipping.coefficient, clipping.cut_entries)


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


def plain_infos(infos: Iterable[ParameterInfo]) -> list[Any]:
    """Parameters as JSON has them."""
    return [[info.name, info.shape, info.dtype] for info in infos]


def infos_of(plain: Iterable[Any]) -> list[ParameterInfo]:
    """The way back from `plain_infos`."""
    return [ParameterInfo(name=name, shape=tuple(shape), dtype=dtype) for name, shape, dtype in plain]


def plain_parts(parts: Iterable[ParameterPart | None]) -> list[Any]:
    """Parts of parameters as JSON has them; None for a position without one."""
    return [None if part is None else [*plain_infos([part.info]), part.part, part.mark] for part in parts]


def parts_of(plain: Iterable[Any]) -> list[ParameterPart | None]:
    """The way back from `plain_parts`."""
    return [
        None if one is None else ParameterPart(info=infos_of(one[:1])[0], part=one[1], mark=one[2]) for one in plain
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
