"""Statistics of parts -> statistics of the whole, and whether those who hold the same agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.messages import ABSENT, LocalStep

TOLERANCE = 1e-5
"""Norms of one gradient by two processes may differ so much, relatively, by the order of the additions."""


@dataclass(slots=True)
class Holding:
    """What a rank has of an optimizer's parameters: column of its tables, position in the run, part."""

    columns: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where the entries of the ranks that were heard belong; their tables lie side by side, rank after rank.

    Attributes:
        columns: of each rank's table.
        positions: (entries,) of the parameter in the run.
        counts: (entries,) whether an entry is taken: of several ranks that hold the same, the first's is.
        rank: (entries,) index among the ranks that were heard.
        order, starts: entries sorted by what they are, and where the next thing begins.
        is_whole: whether every part that any rank has is held by one that was heard.
        has_parts: whether a rank has a part of a parameter, so that others have the rest.
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
    def of(cls, holdings: Sequence[Holding], heard: Sequence[int]) -> Self:
        """Of all ranks, of which those ``heard`` give their numbers."""
        things: dict[tuple[int, str], int] = {}
        positions, counts, rank, thing = [], [], [], []
        for index, holding in enumerate(holdings[r] for r in heard):
            for position, part in zip(holding.positions, holding.parts, strict=True):
                counts.append((position, part) not in things)
                thing.append(things.setdefault((position, part), len(things)))
                positions.append(position)
                rank.append(index)
        everything = {pair for holding in holdings for pair in zip(holding.positions, holding.parts, strict=True)}
        order = np.argsort(np.array(thing, np.int64), kind="stable")
        ordered = np.array(thing, np.int64)[order]
        return cls(
            columns=tuple(holdings[r].columns for r in heard),
            positions=np.array(positions, np.int64),
            counts=np.array(counts, bool),
            rank=np.array(rank, np.int64),
            order=order,
            starts=np.flatnonzero(np.diff(ordered, prepend=-1)),
            is_whole=everything <= things.keys(),
            has_parts=any(part.strip(",-") for _, part in everything),
        )


def widened(step: LocalStep, columns: Sequence[int]) -> LocalStep:
    """With nothing in the columns of parameters that joined only after the step.

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


def combine(
    layout: Layout, steps: Sequence[LocalStep], stats: Sequence[str], parameters: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_], list[float], list[float]]:
    """Each statistic of each parameter, which parameters had a gradient, and who disagrees.

    Norms are added as squares, counts as they are; of ``abs_max`` the largest is taken. A statistic is
    NaN where no part of the parameter had a gradient.

    Returns:
        The statistics by name, (parameters,) each; the parameters present; for each rank that was
        heard how many of its gradients are not those that most of the others hold, and the position of
        the first of them, NaN where there is none.
    """
    rows = {
        name: np.concatenate(
            [step.table[step.stats.index(name)][at] for step, at in zip(steps, layout.columns, strict=True)]
        ).astype(np.float64)
        for name in stats
    }
    norm = rows["norm"]
    there = norm != ABSENT
    taken = there & layout.counts
    positions = layout.positions[taken]
    present = np.bincount(positions, minlength=parameters) > 0
    columns = {}
    for name, row in rows.items():
        values = row[taken]
        if name == "abs_max":
            found = np.full(parameters, -np.inf)
            with np.errstate(invalid="ignore"):
                np.maximum.at(found, positions, values)
        elif name == "norm":
            found = np.sqrt(np.bincount(positions, values**2, parameters))
        else:
            found = np.bincount(positions, values, parameters)
        columns[name] = np.where(present, found, np.nan)
    differing, differs_in = _disagreements(layout, norm, len(steps))
    return columns, present, differing, differs_in


def _disagreements(layout: Layout, norm: NDArray[np.float64], ranks: int) -> tuple[list[float], list[float]]:
    differing, differs_in = [0.0] * ranks, [np.nan] * ranks
    if len(layout.starts) == len(layout.order):
        return differing, differs_in  # nobody holds what another holds
    ordered = np.nan_to_num(norm[layout.order], nan=-2.0, posinf=np.finfo(np.float64).max)
    low, high = np.minimum.reduceat(ordered, layout.starts), np.maximum.reduceat(ordered, layout.starts)
    ends = np.append(layout.starts[1:], len(ordered))
    for at in np.flatnonzero(high - low > TOLERANCE * np.abs(high)):
        members = layout.order[layout.starts[at] : ends[at]]
        values = ordered[layout.starts[at] : ends[at]]
        usual = np.sort(values)[(len(values) - 1) // 2] if len(values) > 2 else values[0]
        for entry, value in zip(members, values, strict=True):
            if abs(value - usual) > TOLERANCE * abs(usual):
                rank, position = layout.rank[entry], float(layout.positions[entry])
                differing[rank] += 1
                differs_in[rank] = np.nanmin([differs_in[rank], position])
    return differing, differs_in
