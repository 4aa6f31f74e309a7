"""The part of a step that one rank, or a subtree of ranks, holds, and the encoding of both."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradwatch.distributed.world import ParameterPart
from gradwatch.record import MAGNITUDE_BINS, RANK_STATS, UPDATE_STATS, Floats, ParameterInfo

ABSENT = -1.0
"""The norm that stands for a missing gradient. A NaN norm is that of a gradient with a NaN in it."""

LARGEST = float(np.finfo(np.float32).max)

UNKNOWN = -3.0
"""The norm that stands for a gradient of which the subtree lacks a part."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalStep:
    """Statistics of the gradients of one optimizer that one rank holds, at one step.

    Attributes:
        optimizer: its name.
        number: of the step, counted from 0 since the recording began.
        stats: the statistics in the rows of ``table``; the norm is first.
        table: (stats, parameters of this rank); the norm is `ABSENT` where the gradient is missing.
        weights: weight_norm and update_norm, (2, parameters of this rank); None if this step was not sampled.
        updates: `UPDATE_STATS`, (4, parameters of this rank), each as a norm whose squares add up over parts:
            rms_ratio is times the root of the entries of the part. NaN where nothing is known, None if the updates were
            not read.
        magnitudes: how many entries are in each of `MAGNITUDE_BINS`, (bins, parameters of this rank); NaN without a
            gradient, None if they were not counted.
        sentinels: the updates of a few parameters, (1 + 4, few): the column of each, then as ``updates``.
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
    updates: Floats | None = None
    magnitudes: Floats | None = None
    sentinels: Floats | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtreeParts:
    """What the ranks of a subtree hold together from here on; replaces what was said before.

    Attributes:
        optimizer: its name.
        infos: the parameters in the columns of the subtree's tables.
        parts: the distinct sets of parts that the subtree holds of some parameter.
        held: which of these sets it holds of each parameter.
    """

    optimizer: str
    infos: tuple[ParameterInfo, ...]
    parts: tuple[frozenset[str], ...]
    held: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubtreeStep:
    """Statistics of one step, combined over the ranks of a subtree that were heard.

    Attributes:
        optimizer, number, stats: as in `LocalStep`.
        table: (stats, parameters of the subtree); the norm is `ABSENT` where the gradient is missing on every rank, and
            `UNKNOWN` where a part of it did not arrive.
        weights, updates, magnitudes: as in `LocalStep`, of the parameters of the subtree; None unless every rank has
            them.
        sentinels: as in `LocalStep`; of those of which every part was read.
        first_rank: of the subtree.
        ranks: (statistics of `RANK_STATS`, ranks of the subtree), NaN where a rank was not heard; ``differs_in`` is
            a column of ``table``.
        loss_sum: over the ranks that know their loss.
        losses: number of these ranks.
    """

    optimizer: str
    number: int
    stats: tuple[str, ...]
    table: Floats
    weights: Floats | None = None
    updates: Floats | None = None
    magnitudes: Floats | None = None
    sentinels: Floats | None = None
    first_rank: int
    ranks: Floats
    loss_sum: float = 0.0
    losses: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """Ranks of a subtree that were heard since the recording began."""

    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The last item that a rank sends.

    Attributes:
        was_killed: its training process is dead, and its recorder's process has sent what there was.
    """

    was_killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """The sender reads the letters of this rank no longer; whoever reads the sender's has to.

    Attributes:
        rank: whose letters they are.
        read: letters of the rank that were read.
        next_steps: the first step of each optimizer that is not yet combined.
        items: what was read and is not yet combined: what the rank holds, and its later steps.
        silent: whether the sender had stopped waiting for the rank.
    """

    rank: int
    read: int
    next_steps: dict[str, int]
    items: tuple[Item, ...]
    silent: bool = False


Item: TypeAlias = "JoinedParts | LocalStep | SubtreeParts | SubtreeStep | Heard | Ended | HandedOver"


def of_one_rank(rank: int, step: LocalStep) -> SubtreeStep:
    """The step of a subtree that is this rank alone.

    >>> step = LocalStep(optimizer="0", number=7, stats=("norm",), table=np.ones((1, 2), np.float32), norm=1.5)
    >>> of_one_rank(3, step).ranks[0].tolist()
    [1.5]
    """
    known = [_as_float32(step.norm), _as_float32(step.nonfinite), 0.0, math.nan, float(step.before_reduction)]
    return SubtreeStep(
        optimizer=step.optimizer,
        number=step.number,
        stats=step.stats,
        table=step.table,
        weights=step.weights,
        updates=step.updates,
        magnitudes=step.magnitudes,
        sentinels=step.sentinels,
        first_rank=rank,
        ranks=np.array(known, np.float32).reshape(-1, 1),
        loss_sum=0.0 if step.loss is None else step.loss,
        losses=int(step.loss is not None),
    )


def _as_float32(value: float) -> float:
    """The value, or an infinity where float32 has none as large: numpy would warn, and to ask it not to takes longer.

    >>> _as_float32(1e38), _as_float32(-1e39), _as_float32(math.nan)
    (1e+38, -inf, nan)
    """
    return math.copysign(math.inf, value) if abs(value) > LARGEST else value


def pack(items: Sequence[Item]) -> bytes:
    """Encode items: a line of JSON with everything but the tables, then the tables as float32.

    >>> step = LocalStep(optimizer="0", number=7, stats=("norm",), table=np.ones((1, 2), np.float32))
    >>> part = ParameterPart(info=ParameterInfo(name="w", shape=(2,)), part="1")
    >>> [type(item).__name__ for item in unpack(pack([JoinedParts("0", 0, [part, None]), step, Ended()]))]
    ['JoinedParts', 'LocalStep', 'Ended']
    """
    tables: list[Floats] = []
    heads = [_head(item, tables) for item in items]
    data = b"".join(np.ascontiguousarray(table, "<f4").tobytes() for table in tables)
    return json.dumps(heads).encode() + b"\n" + data


def _head(item: Item, tables: list[Floats]) -> dict[str, Any]:
    """Everything of an item but its tables, which are appended to ``tables``."""
    if isinstance(item, LocalStep):
        numbers = [item.norm, item.nonfinite, item.loss]
        return _head_of_step(item, tables) | {"before": item.before_reduction, "numbers": numbers}
    if isinstance(item, SubtreeStep):
        head = _head_of_step(item, tables)
        same = [_same(row) for row in item.ranks]
        tables += [row for row, value in zip(item.ranks, same, strict=True) if value is None]
        return head | {"rank": item.first_rank, "ranks": item.ranks.shape[1], "same": same, "loss": _loss(item)}
    if isinstance(item, JoinedParts | SubtreeParts):
        return _head_of_parts(item)
    if isinstance(item, Heard):
        return {"heard": item.ranks}
    if isinstance(item, HandedOver):
        return {
            "handed_over": item.rank,
            "read": item.read,
            "next_steps": item.next_steps,
            "items": [_head(one, tables) for one in item.items],
            "silent": item.silent,
        }
    return {"killed": True} if isinstance(item, Ended) and item.was_killed else {}


def _head_of_step(item: LocalStep | SubtreeStep, tables: list[Floats]) -> dict[str, Any]:
    tables.append(item.table)
    more = (item.weights, item.updates, item.magnitudes, item.sentinels)
    tables += [table for table in more if table is not None]
    return {
        "optimizer": item.optimizer,
        "number": item.number,
        "stats": item.stats,
        "columns": item.table.shape[1],
        "weights": item.weights is not None,
        "updates": item.updates is not None,
        "magnitudes": item.magnitudes is not None,
        "sentinels": None if item.sentinels is None else item.sentinels.shape[1],
    }


def _head_of_parts(item: JoinedParts | SubtreeParts) -> dict[str, Any]:
    if isinstance(item, JoinedParts):
        parts = [None if p is None else [p.info.name, p.info.shape, p.info.dtype, p.part, p.mark] for p in item.parts]
        return {"optimizer": item.optimizer, "first": item.first, "parts": parts}
    infos = [[info.name, info.shape, info.dtype] for info in item.infos]
    sets = [sorted(parts) for parts in item.parts]
    return {"optimizer": item.optimizer, "infos": infos, "sets": sets, "held": item.held}


def _same(row: Floats) -> float | None:
    """The value of all ranks; None where they differ."""
    is_same = len(row) > 0 and (bool((row == row[0]).all()) or bool(np.isnan(row).all()))
    return float(row[0]) if is_same else None


def _loss(item: SubtreeStep) -> tuple[float, int]:
    return item.loss_sum, item.losses


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
    if "number" in head:
        return _subtree_step(head, tables) if "rank" in head else _local_step(head, tables)
    if "handed_over" in head:
        return HandedOver(
            rank=head["handed_over"],
            read=head["read"],
            next_steps=head["next_steps"],
            items=tuple(_item(one, tables) for one in head["items"]),
            silent=head["silent"],
        )
    if "parts" in head:
        return JoinedParts(head["optimizer"], head["first"], [None if p is None else _part(*p) for p in head["parts"]])
    if "sets" in head:
        return SubtreeParts(
            optimizer=head["optimizer"],
            infos=tuple(_info(*info) for info in head["infos"]),
            parts=tuple(map(frozenset, head["sets"])),
            held=tuple(head["held"]),
        )
    if "heard" in head:
        return Heard(tuple(head["heard"]))
    return Ended(was_killed="killed" in head)


def _local_step(head: dict[str, Any], tables: _Tables) -> LocalStep:
    norm, nonfinite, loss = head["numbers"]
    return LocalStep(
        optimizer=head["optimizer"],
        number=head["number"],
        stats=tuple(head["stats"]),
        **_tables_of_step(head, tables),
        norm=norm,
        nonfinite=nonfinite,
        before_reduction=head["before"],
        loss=loss,
    )


def _subtree_step(head: dict[str, Any], tables: _Tables) -> SubtreeStep:
    count = head["ranks"]
    found = _tables_of_step(head, tables)
    ranks = np.empty((len(RANK_STATS), count), np.float32)
    for row, value in zip(ranks, head["same"], strict=True):
        row[:] = tables.take(1, count)[0] if value is None else value
    return SubtreeStep(
        optimizer=head["optimizer"],
        number=head["number"],
        stats=tuple(head["stats"]),
        **found,
        first_rank=head["rank"],
        ranks=ranks,
        loss_sum=head["loss"][0],
        losses=head["loss"][1],
    )


def _tables_of_step(head: dict[str, Any], tables: _Tables) -> dict[str, Any]:
    """What `_head_of_step` has put among the tables, in its order."""
    columns, few = head["columns"], head["sentinels"]
    return {
        "table": tables.take(len(head["stats"]), columns),
        "weights": tables.take(2, columns) if head["weights"] else None,
        "updates": tables.take(len(UPDATE_STATS), columns) if head["updates"] else None,
        "magnitudes": tables.take(len(MAGNITUDE_BINS), columns) if head["magnitudes"] else None,
        "sentinels": None if few is None else tables.take(1 + len(UPDATE_STATS), few),
    }


def _part(name: str, shape: Sequence[int], dtype: str, part: str, mark: int | None) -> ParameterPart:
    return ParameterPart(info=_info(name, shape, dtype), part=part, mark=mark)


def _info(name: str, shape: Sequence[int], dtype: str) -> ParameterInfo:
    return ParameterInfo(name=name, shape=tuple(shape), dtype=dtype)
