"""What one process has of a step, and how it is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradwatch.record import Floats, ParameterInfo

ABSENT = -1.0
"""Stands for the norm of a gradient that is not there; a norm that is NaN is one of a gradient with NaN in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a process has of one parameter.

    Attributes:
        info: of the parameter as a whole.
        part: which part of it; processes that hold the same part name it alike.
    """

    info: ParameterInfo
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalStep:
    """The statistics of what one process holds of the gradients of an optimizer.

    Attributes:
        optimizer: its name.
        number: of the step, counted from 0 since the recording began.
        stats: of which the rows of ``table`` are; norm is the first.
        table: (stats, parameters of this process); the norm is `ABSENT` where there is no gradient.
        weights: weight_norm and update_norm, (2, parameters of this process), where they were sampled.
        norm: total norm of the gradient before it was reduced over the processes, else of what this one holds.
        nonfinite: likewise, entries that are NaN or infinite.
        before_reduction: which of the two these are.
        loss: of this process; None where it is not known.
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
class Joined:
    """Parameters that a process has from here on, at the columns from ``first`` of an optimizer's tables.

    None where the process has not got that column's parameter.
    """

    optimizer: str
    first: int
    shares: Sequence[Share | None]


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing comes any more."""


Item: TypeAlias = Joined | LocalStep | Ended


def pack(items: Sequence[Item]) -> bytes:
    """Items as bytes: their lengths and numbers as a line of JSON, then the tables as float32.

    >>> step = LocalStep(optimizer="0", number=7, stats=("norm",), table=np.ones((1, 2), np.float32))
    >>> joined = Joined("0", 0, [Share(info=ParameterInfo(name="w", shape=(2,)), part="1"), None])
    >>> [type(item).__name__ for item in unpack(pack([joined, step, Ended()]))]
    ['Joined', 'LocalStep', 'Ended']
    """
    heads: list[dict[str, Any]] = []
    tables: list[Floats] = []
    for item in items:
        if isinstance(item, Joined):
            shares = [None if s is None else [s.info.name, s.info.shape, s.info.dtype, s.part] for s in item.shares]
            heads.append({"optimizer": item.optimizer, "first": item.first, "shares": shares})
        elif isinstance(item, LocalStep):
            tables += [item.table] if item.weights is None else [item.table, item.weights]
            heads.append(
                {
                    "optimizer": item.optimizer,
                    "number": item.number,
                    "stats": item.stats,
                    "columns": item.table.shape[1],
                    "weights": item.weights is not None,
                    "before": item.before_reduction,
                    "numbers": [item.norm, item.nonfinite, item.loss],
                }
            )
        else:
            heads.append({})
    data = b"".join(np.ascontiguousarray(table, "<f4").tobytes() for table in tables)
    return json.dumps(heads).encode() + b"\n" + data


def unpack(message: bytes) -> list[Item]:
    """The items of `pack`."""
    line, _, data = message.partition(b"\n")
    values = np.frombuffer(data, "<f4")
    at = 0

    def taken(rows: int, columns: int) -> Floats:
        nonlocal at
        at += rows * columns
        return values[at - rows * columns : at].reshape(rows, columns)

    items: list[Item] = []
    for head in json.loads(line):
        if "shares" in head:
            shares = [None if s is None else _share(*s) for s in head["shares"]]
            items.append(Joined(head["optimizer"], head["first"], shares))
        elif "number" in head:
            norm, nonfinite, loss = head["numbers"]
            items.append(
                LocalStep(
                    optimizer=head["optimizer"],
                    number=head["number"],
                    stats=tuple(head["stats"]),
                    table=taken(len(head["stats"]), head["columns"]),
                    weights=taken(2, head["columns"]) if head["weights"] else None,
                    norm=norm,
                    nonfinite=nonfinite,
                    before_reduction=head["before"],
                    loss=loss,
                )
            )
        else:
            items.append(Ended())
    return items


def _share(name: str, shape: Sequence[int], dtype: str, part: str) -> Share:
    return Share(info=ParameterInfo(name=name, shape=tuple(shape), dtype=dtype), part=part)
