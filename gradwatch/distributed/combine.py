"""Combines what the ranks measured of their parts into statistics of whole parameters, and compares copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.messages import ABSENT, LocalStep
from gradwatch.record import WeightStats

TOLERANCE = 1e-5
"""Largest relative difference between two ranks' norms of one gradient that rounding explains."""


@dataclass(slots=True)
class RankParts:
    """The parts that one rank holds of an optimizer's parameters; the lists have an entry for each part.

    Attributes:
        columns: of the part in the rank's tables.
        positions: of its parameter in the run.
        parts: which part it is, as in `ParameterPart.part`.
    """

    columns: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankLayout:
    """Where the entries of the ranks that were heard belong. An entry is one column of one rank's table.

    The tables stand side by side, rank after rank.

    Attributes:
        columns: of each rank's table.
        positions: (entries,) position of the entry's parameter in the run.
        counts: (entries,) whether the entry is counted; of several copies of a part only the first is.
        rank: (entries,) index among the ranks that were heard.
        order: (entries,) entries sorted so that copies of one part are neighbours.
        starts: (parts,) where the copies of each part begin in ``order``.
        is_whole: whether the ranks that were heard hold every part that any rank holds.
        has_parts: whether some rank holds less than a whole parameter.
    """

    columns: tuple[list[int], ...]
    positions: NDArray[np.int64]
    counts: NDArray[np.bool_]
    rank: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    is_whole: bool
    has_parts: bool

    @classmethod
    def of(cls, held: Sequence[RankParts], heard: Sequence[int]) -> Self:
        """The layout for the parts that all ranks hold, when only the ranks ``heard`` give their numbers."""
        numbers: dict[tuple[int, str], int] = {}  # of the distinct parts
        positions, counts, rank, part_numbers = [], [], [], []
        for index, one in enumerate(held[r] for r in heard):
            for key in zip(one.positions, one.parts, strict=True):
                counts.append(key not in numbers)
                part_numbers.append(numbers.setdefault(key, len(numbers)))
                positions.append(key[0])
                rank.append(index)
        everything = {key for one in held for key in zip(one.positions, one.parts, strict=True)}
        order = np.argsort(np.array(part_numbers, np.int64), kind="stable")
        ordered = np.array(part_numbers, np.int64)[order]
        return cls(
            columns=tuple(held[r].columns for r in heard),
            positions=np.array(positions, np.int64),
            counts=np.array(counts, bool),
            rank=np.array(rank, np.int64),
            order=order,
            starts=np.flatnonzero(np.diff(ordered, prepend=-1)),
            is_whole=everything <= numbers.keys(),
            has_parts=any(part.strip(",-") for _, part in everything),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Combined:
    """Statistics of whole parameters, and the ranks whose copies differ.

    Attributes:
        stats: each statistic by name, (parameters,) float64; NaN where no part of the parameter had a gradient.
        present: (parameters,) which parameters had a gradient on any rank.
        differing: (ranks heard,) how many gradients of the rank are not those that most of the others hold.
        differs_in: (ranks heard,) position of the first of these parameters; NaN if there is none.
    """

    stats: dict[str, NDArray[np.float64]]
    present: NDArray[np.bool_]
    differing: list[float]
    differs_in: list[float]


def widened(step: LocalStep, columns: Sequence[int]) -> LocalStep:
    """The step with empty columns for parameters that joined only after it.

    >>> step = LocalStep(optimizer="0", number=0, stats=("norm",), table=np.ones((1, 1), np.float32))
    >>> widened(step, [0, 2]).table.tolist()
    [[1.0, -1.0, -1.0]]
    """
    missing = max(columns, default=-1) + 1 - step.table.shape[1]
    if missing <= 0:
        return step
    more = np.full((len(step.stats), missing), np.nan, np.float32)
    more[0] = ABSENT
    weights = step.weights
    if weights is not None:
        weights = np.concatenate([weights, np.full((2, missing), np.nan, np.float32)], axis=1)
    return replace(step, table=np.concatenate([step.table, more], axis=1), weights=weights)


def combine(layout: RankLayout, steps: Sequence[LocalStep], stats: Sequence[str], parameters: int) -> Combined:
    """Combine one step of the ranks that were heard, of which ``stats`` are the statistics that all of them have.

    Norms are added as squares and counts as they are; of ``abs_max`` the largest is taken.
    """
    rows = {
        name: np.concatenate(
            [step.table[step.stats.index(name)][at] for step, at in zip(steps, layout.columns, strict=True)]
        ).astype(np.float64)
        for name in stats
    }
    norm = rows["norm"]
    counted = (norm != ABSENT) & layout.counts
    positions = layout.positions[counted]
    present = np.bincount(positions, minlength=parameters) > 0
    combined = {
        name: np.where(present, _combine_stat(name, row[counted], positions, parameters), np.nan)
        for name, row in rows.items()
    }
    differing, differs_in = _compare_copies(layout, norm, len(steps))
    return Combined(stats=combined, present=present, differing=differing, differs_in=differs_in)


def _combine_stat(
    name: str, values: NDArray[np.float64], positions: NDArray[np.int64], parameters: int
) -> NDArray[np.float64]:
    if name == "abs_max":
        largest = np.full(parameters, -np.inf)
        with np.errstate(invalid="ignore"):
            np.maximum.at(largest, positions, values)
        return largest
    if name == "norm":
        return np.sqrt(np.bincount(positions, values**2, parameters))
    return np.bincount(positions, values, parameters).astype(np.float64)


def combine_weights(layout: RankLayout, steps: Sequence[LocalStep], parameters: int) -> WeightStats | None:
    """Weight and update norms of whole parameters; None unless every rank that was heard sampled them."""
    tables = [step.weights for step in steps]
    if any(table is None for table in tables):
        return None
    rows = np.concatenate([t[:, c] for t, c in zip(tables, layout.columns, strict=True) if t is not None], axis=1)
    squares = np.where(np.isnan(rows) | ~layout.counts, 0.0, rows.astype(np.float64) ** 2)
    bad = [np.bincount(layout.positions, np.isnan(row) & layout.counts, parameters) > 0 for row in rows]
    sums = [np.sqrt(np.bincount(layout.positions, row, parameters)) for row in squares]
    norms = [np.where(b, np.nan, s).astype(np.float32) for b, s in zip(bad, sums, strict=True)]
    return WeightStats(weight_norm=norms[0], update_norm=norms[1])


def _compare_copies(layout: RankLayout, norm: NDArray[np.float64], ranks: int) -> tuple[list[float], list[float]]:
    """`Combined.differing` and `Combined.differs_in`.

    With three copies or more the median norm is the right one; of two, the first rank's.
    """
    differing, differs_in = [0.0] * ranks, [np.nan] * ranks
    if len(layout.starts) == len(layout.order):
        return differing, differs_in  # there are no copies
    ordered = np.nan_to_num(norm[layout.order], nan=-2.0, posinf=np.finfo(np.float64).max)
    low, high = np.minimum.reduceat(ordered, layout.starts), np.maximum.reduceat(ordered, layout.starts)
    ends = np.append(layout.starts[1:], len(ordered))
    for at in np.flatnonzero(high - low > TOLERANCE * np.abs(high)):
        copies = layout.order[layout.starts[at] : ends[at]]
        values = ordered[layout.starts[at] : ends[at]]
        usual = np.sort(values)[(len(values) - 1) // 2] if len(values) > 2 else values[0]
        for entry, value in zip(copies, values, strict=True):
            if abs(value - usual) > TOLERANCE * abs(usual):
                rank, position = layout.rank[entry], float(layout.positions[entry])
                differing[rank] += 1
                differs_in[rank] = np.nanmin([differs_in[rank], position])
    return differing, differs_in
