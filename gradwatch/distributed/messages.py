"""What one rank has of a step, and its encoding."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradwatch.record import Floats, ParameterInfo

ABSENT = -1.0
"""The norm that stands for a missing gradient. A NaN norm is that of a gradient with a NaN in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterPart:
    """The part of one parameter that a rank holds.

    Attributes:
        info: name, shape and dtype of the whole parameter.
        part: which part of it. Ranks that hold copies of the same part use the same text; empty is the whole parameter.
    """

    info: ParameterInfo
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalStep:
    """Statistics of the gradients of one optimizer that one rank holds, at one step.

    Attributes:
        optimizer: its name.
        number: of the step, counted from 0 since the recording began.
        stats: the statistics in the rows of ``table``; the norm is first.
        table: (stats, parameters of this rank); the norm is `ABSENT` where the gradient is missing.
        weights: weight_norm and update_norm, (2, parameters of this rank); None if this step was not sampled.
        norm: total norm of this rank's gradient before the reduction over ranks, or else of the part it holds.
        nonfinite: NaN and infinite entries of the same gradient.
        before_reduction: whether ``norm`` and ``nonfinite`` were taken before the reduction.
        loss: of this rank; None if it is not known.
    """

    optimizer: str
    number: int
    stats: tuple[str, ...]
    table: Floats
    weights: Floats | None = None
    norm: float = math.nan
    nonfinite: float = math.nan
    before_reduction: bool = False
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class JoinedParts:
    """Parts of parameters that a rank has from here on, in columns ``first``, ``first`` + 1, ... of its tables.

    None stands for a parameter that the rank has no part of.
    """

    optimizer: str
    first: int
    parts: Sequence[ParameterPart | None]


@dataclass(frozen=True, slots=True)
class Ended:
    """The last item that a rank sends."""


Item: TypeAlias = JoinedParts | LocalStep | Ended


def pack(items: Sequence[Item]) -> bytes:
    """Encode items: a line of JSON with everything but the tables, then the tables as float32.

    >>> step = LocalStep(optimizer="0", number=7, stats=("norm",), table=np.ones((1, 2), np.float32))
    >>> part = ParameterPart(info=ParameterInfo(name="w", shape=(2,)), part="1")
    >>> [type(item).__name__ for item in unpack(pack([JoinedParts("0", 0, [part, None]), step, Ended()]))]
    ['JoinedParts', 'LocalStep', 'Ended']
    """
    heads = [_head(item) for item in items]
    tables = [table for item in items if isinstance(item, LocalStep) for table in (item.table, item.weights)]
    data = b"".join(np.ascontiguousarray(table, "<f4").tobytes() for table in tables if table is not None)
    return json.dumps(heads).encode() + b"\n" + data


def _head(item: Item) -> dict[str, Any]:
    """Everything of an item but its tables."""
    if isinstance(item, JoinedParts):
        parts = [None if p is None else [p.info.name, p.info.shape, p.info.dtype, p.part] for p in item.parts]
        return {"optimizer": item.optimizer, "first": item.first, "parts": parts}
    if isinstance(item, LocalStep):
        return {
            "optimizer": item.optimizer,
            "number": item.number,
            "stats": item.stats,
            "columns": item.table.shape[1],
            "weights": item.weights is not None,
            "before": item.before_reduction,
            "numbers": [item.norm, item.nonfinite, item.loss],
        }
    return {}


def unpack(message: bytes) -> list[Item]:
    """Decode what `pack` encoded."""
    line, _, data = message.partition(b"\n")
    tables = _Tables(np.frombuffer(data, "<f4"))
    return [_item(head, tables) for head in json.loads(line)]


class _Tables:
    """Cuts one table after the other off the data of a message."""

    def __init__(self, values: Floats) -> None:
        self._values, self._at = values, 0

    def take(self, rows: int, columns: int) -> Floats:
        begin, self._at = self._at, self._at + rows * columns
        return self._values[begin : self._at].reshape(rows, columns)


def _item(head: dict[str, Any], tables: _Tables) -> Item:
    if "parts" in head:
        return JoinedParts(head["optimizer"], head["first"], [None if p is None else _part(*p) for p in head["parts"]])
    if "number" not in head:
        return Ended()
    norm, nonfinite, loss = head["numbers"]
    return LocalStep(
        optimizer=head["optimizer"],
        number=head["number"],
        stats=tuple(head["stats"]),
        table=tables.take(len(head["stats"]), head["columns"]),
        weights=tables.take(2, head["columns"]) if head["weights"] else None,
        norm=norm,
        nonfinite=nonfinite,
        before_reduction=head["before"],
        loss=loss,
    )


def _part(name: str, shape: Sequence[int], dtype: str, part: str) -> ParameterPart:
    return ParameterPart(info=ParameterInfo(name=name, shape=tuple(shape), dtype=dtype), part=part)
