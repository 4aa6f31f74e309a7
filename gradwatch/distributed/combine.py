"""Combines what ranks, or subtrees of ranks, measured of their parts of the parameters, and compares copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.messages import ABSENT, UNKNOWN, SubtreeStep
from gradwatch.record import MOST_COUNTED, RANK_STATS, UPDATE_STATS, Floats, WeightStats

TOLERANCE = 1e-5
"""Largest relative difference between two ranks' norms of one gradient that rounding explains."""

_NORM, _NONFINITE, _DIFFERING, _DIFFERS_IN, _BEFORE = range(len(RANK_STATS))


@dataclass(frozen=True, slots=True, eq=False)
class HeldParts:
    """The parts that one sender holds of an optimizer's parameters; the tuples have an entry for each parameter.

    A sender is a rank, which holds one part of a parameter, or a subtree of ranks, which holds a set of parts.

    Attributes:
        columns: of the parameter in the sender's tables.
        positions: of the parameter in the receiver's tables.
        parts: which parts they are, as in `ParameterPart.part`.
        width: columns that a table with all of these parts has at least.
    """

    columns: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    parts: tuple[frozenset[str], ...] = ()
    width: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", max(self.columns, default=-1) + 1)  # once, and not for each step

    def without(self, left_out: NDArray[np.bool_] | None) -> HeldParts:
        """The same without some entries."""
        if left_out is None:
            return self
        kept = np.flatnonzero(~left_out).tolist()
        return HeldParts(
            tuple(self.columns[at] for at in kept),
            tuple(self.positions[at] for at in kept),
            tuple(self.parts[at] for at in kept),
        )


@dataclass(frozen=True, slots=True)
class Cover:
    """How the sets of parts that arrived of one parameter make it up.

    Attributes:
        counted: which sets are counted; these have no part in common.
        copy_of: the first set that is equal to each.
        is_whole: whether they have every part that any sender holds.
        overlaps: whether two sets have only some parts in common, so that not all parts can be told apart.
    """

    counted: tuple[bool, ...]
    copy_of: tuple[int, ...]
    is_whole: bool
    overlaps: bool

    @classmethod
    def of(cls, arrived: Sequence[frozenset[str]], missing: Iterable[frozenset[str]] = ()) -> Self:
        """Choose the sets to count, the largest first; of equal ones the first.

        >>> a, b, ab = frozenset("a"), frozenset("b"), frozenset("ab")
        >>> Cover.of([a, b, ab, ab]).counted, Cover.of([a, b, a]).counted, Cover.of([a], [b]).is_whole
        ((False, False, True, False), (True, True, False), False)
        >>> Cover.of([ab, frozenset("bc")]).overlaps
        True
        """
        counted, overlaps = [False] * len(arrived), False
        taken: set[str] = set()
        for at in sorted(range(len(arrived)), key=lambda at: -len(arrived[at])):
            if taken.isdisjoint(arrived[at]):
                counted[at] = True
                taken |= arrived[at]
            else:
                overlaps |= not arrived[at] <= taken
        firsts: dict[frozenset[str], int] = {}
        return cls(
            counted=tuple(counted),
            copy_of=tuple(firsts.setdefault(parts, at) for at, parts in enumerate(arrived)),
            is_whole=all(parts <= taken for parts in (*missing, *arrived)),
            overlaps=overlaps,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where the entries of the senders that were heard belong. An entry is one column of one sender's table.

    The tables stand side by side, sender after sender.

    Attributes:
        columns: of each sender's table; a slice where they are all.
        positions: (entries,) position of the entry's parameter in the receiver's tables.
        sender: (entries,) index among the senders that were heard.
        picked: entries that are counted, by position.
        starts: where each parameter begins in ``picked``.
        filled: positions of these parameters.
        order: (entries,) entries sorted so that copies are neighbours.
        copies: where the copies of each part begin in ``order``.
        whole: (parameters,) whether the senders that were heard hold every part that any sender holds.
        has_parts: whether some sender holds less than a whole parameter.
        overlaps: whether two senders share only some of their parts of a parameter.
    """

    columns: tuple[slice | NDArray[np.int64], ...]
    positions: NDArray[np.int64]
    sender: NDArray[np.int64]
    picked: NDArray[np.int64]
    starts: NDArray[np.int64]
    filled: NDArray[np.int64]
    order: NDArray[np.int64]
    copies: NDArray[np.int64]
    whole: NDArray[np.bool_]
    has_parts: bool
    overlaps: bool

    @classmethod
    def of(cls, heard: Sequence[HeldParts], missing: Sequence[HeldParts], parameters: int) -> Self:
        """The layout for what the senders that were heard hold; ``missing`` is what did not arrive."""
        found = _covers_of(heard, missing, parameters)
        positions = np.array([p for one in heard for p in one.positions], np.int64)
        order = np.argsort(found.copy_of, kind="stable")
        picked = np.array(found.picked, np.int64)
        starts = np.flatnonzero(np.diff(positions[picked], prepend=-1))
        everything = {parts for one in (*heard, *missing) for parts in one.parts}
        return cls(
            columns=tuple(_columns(one.columns) for one in heard),
            positions=positions,
            sender=np.repeat(np.arange(len(heard)), [len(one.columns) for one in heard]),
            picked=picked,
            starts=starts,
            filled=positions[picked][starts],
            order=order,
            copies=np.flatnonzero(np.diff(found.copy_of[order], prepend=-1)),
            whole=found.whole,
            has_parts=any(len(parts) > 1 or next(iter(parts)).strip(",-") for parts in everything),
            overlaps=found.overlaps,
        )

    @property
    def is_whole(self) -> bool:
        """Whether this is so of every parameter."""
        return bool(self.whole.all())


def _covers_of(heard: Sequence[HeldParts], missing: Sequence[HeldParts], parameters: int) -> _Covers:
    arrived: list[list[frozenset[str]]] = [[] for _ in range(parameters)]
    entries: list[list[int]] = [[] for _ in range(parameters)]
    rest: list[list[frozenset[str]]] = [[] for _ in range(parameters)]
    number = 0
    for one in heard:
        for position, parts in zip(one.positions, one.parts, strict=True):
            arrived[position].append(parts)
            entries[position].append(number)
            number += 1
    for one in missing:
        for position, parts in zip(one.positions, one.parts, strict=True):
            rest[position].append(parts)
    found = _Covers(number, parameters)
    for position in range(parameters):
        found.add(position, arrived[position], entries[position], rest[position])
    return found


class _Covers:
    """Collects the covers of all parameters; most of them are alike and are computed once."""

    def __init__(self, entries: int, parameters: int) -> None:
        self.copy_of = np.zeros(entries, np.int64)
        self.whole = np.ones(parameters, bool)
        self.picked: list[int] = []
        self.overlaps = False
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Cover] = {}

    def add(
        self, position: int, arrived: list[frozenset[str]], entries: list[int], missing: list[frozenset[str]]
    ) -> None:
        key = (tuple(map(id, arrived)), tuple(map(id, missing)))
        cover = self._known.get(key)
        if cover is None:
            cover = self._known[key] = Cover.of(arrived, missing)
        self.whole[position] = cover.is_whole
        self.overlaps |= cover.overlaps
        self.picked += [entry for entry, counts in zip(entries, cover.counted, strict=True) if counts]
        self.copy_of[entries] = [entries[at] for at in cover.copy_of]


def _columns(columns: Sequence[int]) -> slice | NDArray[np.int64]:
    return slice(len(columns)) if list(columns) == list(range(len(columns))) else np.array(columns, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Combined:
    """Statistics of the parameters over all senders that were heard, and the senders whose copies differ.

    Attributes:
        stats: each statistic by name, (parameters,) float64; NaN where no part of the parameter had a gradient.
        present: (parameters,) which parameters had a gradient on any rank.
        weights: None unless every sender sampled them.
        updates, magnitudes: as in `SubtreeStep`; None unless every sender has them.
        sentinels: as in `SubtreeStep`, with positions for columns; None if there are none.
        differing: (senders,) how many gradients of the sender are not those that most of the others hold.
        differs_in: (senders,) position of the first of these parameters; NaN if there is none.
    """

    stats: dict[str, NDArray[np.float64]]
    present: NDArray[np.bool_]
    weights: WeightStats | None
    updates: Floats | None
    magnitudes: Floats | None
    sentinels: Floats | None
    differing: list[float]
    differs_in: list[float]


def widened(step: SubtreeStep, width: int) -> SubtreeStep:
    """The step with empty columns for parameters that joined only after it.

    >>> step = SubtreeStep(
    ...     optimizer="0", number=0, stats=("norm",), table=np.ones((1, 1), np.float32), first_rank=0,
    ...     ranks=np.zeros((5, 1), np.float32),
    ... )
    >>> widened(step, 3).table.tolist()
    [[1.0, -1.0, -1.0]]
    """
    missing = width - step.table.shape[1]
    if missing <= 0:
        return step
    more = np.full((len(step.stats), missing), np.nan, np.float32)
    more[0] = ABSENT
    weights, updates, magnitudes = (
        None if table is None else np.pad(table, ((0, 0), (0, missing)), constant_values=np.nan)
        for table in (step.weights, step.updates, step.magnitudes)
    )
    table = np.concatenate([step.table, more], axis=1)
    return replace(step, table=table, weights=weights, updates=updates, magnitudes=magnitudes)


def combine(layout: Layout, steps: Sequence[SubtreeStep], *, by_majority: bool = False) -> Combined:
    """Combine one step of the senders that were heard.

    Norms are added as squares and counts as they are; of ``abs_max`` the largest is taken. Of copies that differ the
    first is counted, or with ``by_majority`` the one that most agree with.
    """
    stats = _common_stats(steps)
    rows = _side_by_side([_rows_of(step, stats) for step in steps], layout)
    differences = _compare_copies(layout, rows[0])
    picked = layout.picked
    if by_majority and differences.usual:
        picked = np.array([differences.usual.get(entry, entry) for entry in picked.tolist()], np.int64)
    whole, present = _add_up(layout, rows[:, picked], stats)
    return Combined(
        stats=dict(zip(stats, whole, strict=True)),
        present=present,
        weights=_weights(layout, steps, picked),
        updates=_norms_of_wholes(layout, [step.updates for step in steps], picked),
        magnitudes=_counts_of_wholes(layout, [step.magnitudes for step in steps], picked),
        sentinels=_sentinels(layout, steps, picked),
        differing=differences.counts,
        differs_in=differences.first,
    )


def _common_stats(steps: Sequence[SubtreeStep]) -> tuple[str, ...]:
    """The statistics that all steps have."""
    stats = steps[0].stats
    if all(step.stats == stats for step in steps):
        return stats
    return tuple(name for name in stats if all(name in step.stats for step in steps))


def _rows_of(step: SubtreeStep, stats: tuple[str, ...]) -> Floats:
    """The rows of these statistics in a step's table."""
    return step.table if step.stats == stats else step.table[[step.stats.index(name) for name in stats]]


def _side_by_side(tables: Sequence[Floats], layout: Layout) -> NDArray[np.float64]:
    parts = [table[:, at] for table, at in zip(tables, layout.columns, strict=True)]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _add_up(
    layout: Layout, rows: NDArray[np.float64], stats: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The statistics (stats, parameters) of the entries picked, and which parameters had a gradient."""
    whole = np.full((len(stats), len(layout.whole)), np.nan)
    present = np.zeros(len(layout.whole), bool)
    if not layout.filled.size:
        return whole, present
    absent = rows[0] == ABSENT
    some_absent = bool(absent.any())
    if some_absent:
        rows[:, absent] = 0.0
    rows[0] **= 2
    sums = np.add.reduceat(rows, layout.starts, axis=1)
    sums[0] = np.sqrt(sums[0])
    if "abs_max" in stats:
        at = stats.index("abs_max")
        sums[at] = np.maximum.reduceat(rows[at], layout.starts)
    whole[:, layout.filled] = sums
    present[layout.filled] = True
    if some_absent:
        there = np.add.reduceat(~absent, layout.starts, dtype=np.int64) > 0
        present[layout.filled] = there
        whole[:, layout.filled[~there]] = np.nan
    return whole, present


def _weights(layout: Layout, steps: Sequence[SubtreeStep], picked: NDArray[np.int64]) -> WeightStats | None:
    """Weight and update norms of whole parameters; None unless every sender that was heard sampled them."""
    norms = _norms_of_wholes(layout, [step.weights for step in steps], picked)
    return None if norms is None else WeightStats(weight_norm=norms[0], update_norm=norms[1])


def _norms_of_wholes(layout: Layout, tables: Sequence[Floats | None], picked: NDArray[np.int64]) -> Floats | None:
    """Norms of whole parameters from those of their parts, (norms, parameters); None unless every sender has them."""
    there = [table for table in tables if table is not None]
    if len(there) < len(tables) or not there:
        return None
    whole = np.full((len(there[0]), len(layout.whole)), np.nan)
    if layout.filled.size:
        squares = _side_by_side(there, layout)[:, picked] ** 2
        whole[:, layout.filled] = np.sqrt(np.add.reduceat(squares, layout.starts, axis=1))
    with np.errstate(over="ignore"):
        return whole.astype(np.float32)


def _counts_of_wholes(layout: Layout, tables: Sequence[Floats | None], picked: NDArray[np.int64]) -> Floats | None:
    """Counts of whole parameters from those of their parts, (bins, parameters); None unless every sender has them."""
    there = [table for table in tables if table is not None]
    if len(there) < len(tables) or not there:
        return None
    whole = np.full((len(there[0]), len(layout.whole)), np.nan, np.float32)
    if layout.filled.size:
        counts = _side_by_side(there, layout)[:, picked]
        known = np.add.reduceat(~np.isnan(counts[0]), layout.starts, dtype=np.int64) > 0
        sums = np.add.reduceat(np.nan_to_num(counts, nan=0.0), layout.starts, axis=1)
        sums[:, ~known] = np.nan
        whole[:, layout.filled] = np.minimum(sums, MOST_COUNTED)  # each part may have one more than its share
    return whole


def _sentinels(layout: Layout, steps: Sequence[SubtreeStep], picked: NDArray[np.int64]) -> Floats | None:
    """The updates of those few parameters of which every part was read: positions, then norms, (1 + 4, few)."""
    if all(step.sentinels is None for step in steps):
        return None
    values = np.full((len(UPDATE_STATS), len(layout.positions)), np.nan)
    begin, entries = 0, []
    for step, columns in zip(steps, layout.columns, strict=True):
        count = columns.stop if isinstance(columns, slice) else len(columns)
        if step.sentinels is not None:
            own = np.arange(count) if isinstance(columns, slice) else columns
            _, mine, theirs = np.intersect1d(own, step.sentinels[0], assume_unique=True, return_indices=True)
            values[:, begin + mine] = step.sentinels[1:, theirs]
            entries.append(begin + mine)
        begin += count
    ends = np.append(layout.starts[1:], len(picked))
    found = []
    for position in np.unique(layout.positions[np.concatenate(entries)]).tolist():
        at = int(np.searchsorted(layout.filled, position))
        norms = np.sqrt((values[:, picked[layout.starts[at] : ends[at]]] ** 2).sum(axis=1))
        if layout.whole[position] and not np.isnan(norms[0]):
            found.append([position, *norms])
    with np.errstate(over="ignore"):
        return np.array(found, np.float64).astype(np.float32).T if found else None


@dataclass(slots=True)
class _Differences:
    """`Combined.differing`, `Combined.differs_in`, and the usual copy in place of a counted one that differs."""

    counts: list[float]
    first: list[float]
    usual: dict[int, int] = field(default_factory=dict)


def _compare_copies(layout: Layout, norm: NDArray[np.float64]) -> _Differences:
    """With three copies or more the median norm is the right one; of two, the first sender's."""
    senders = len(layout.columns)
    found = _Differences([0.0] * senders, [np.nan] * senders)
    if len(layout.copies) == len(layout.order):
        return found  # there are no copies
    ordered = np.nan_to_num(norm[layout.order], nan=-2.0, posinf=np.finfo(np.float64).max)
    low, high = np.minimum.reduceat(ordered, layout.copies), np.maximum.reduceat(ordered, layout.copies)
    ends = np.append(layout.copies[1:], len(ordered))
    for at in np.flatnonzero(high - low > TOLERANCE * np.abs(high)):
        copies = layout.order[layout.copies[at] : ends[at]]
        values = ordered[layout.copies[at] : ends[at]]
        usual = np.argsort(values, kind="stable")[(len(values) - 1) // 2] if len(values) > 2 else 0
        differs = np.abs(values - values[usual]) > TOLERANCE * np.abs(values[usual])
        for entry in copies[differs]:
            sender, position = layout.sender[entry], float(layout.positions[entry])
            found.counts[sender] += 1
            found.first[sender] = float(np.nanmin([found.first[sender], position]))
            found.usual[int(entry)] = int(copies[usual])
    return found


def combine_ranks(steps: Sequence[SubtreeStep], held: Sequence[HeldParts], combined: Combined, ranks: range) -> Floats:
    """The statistics of each rank, (statistics of `RANK_STATS`, ranks) float32; NaN where a rank was not heard.

    Where copies differ between subtrees, every rank of the subtree that differs is said to, but for those that differ
    within it.
    """
    found = np.full((len(RANK_STATS), len(ranks)), np.nan, np.float32)
    if not any(combined.differing) and _are_neighbours(steps):
        begin = steps[0].first_rank - ranks.start
        rows = np.concatenate([step.ranks for step in steps], axis=1)
        if not (np.isnan(rows[_BEFORE]) | (rows[_DIFFERING] > 0)).any():
            found[:, begin : begin + rows.shape[1]] = rows
            return found
    for index, step in enumerate(steps):
        begin = step.first_rank - ranks.start
        rows = step.ranks
        if combined.differing[index] or (rows[_DIFFERING] > 0).any():
            rows = _with_differences(rows, held[index], combined.differing[index], combined.differs_in[index])
        heard = ~np.isnan(rows[_BEFORE])
        there = found[:, begin : begin + rows.shape[1]]
        if heard.all():
            there[:] = rows
        else:
            there[:, heard] = rows[:, heard]
    return found


def _are_neighbours(steps: Sequence[SubtreeStep]) -> bool:
    """Whether the ranks of each sender follow those of the one before."""
    return all(one.first_rank + one.ranks.shape[1] == next_.first_rank for one, next_ in itertools.pairwise(steps))


def _with_differences(rows: Floats, held: HeldParts, differing: float, differs_in: float) -> Floats:
    """The ranks of one sender, with the differences that the receiver found, and positions of the receiver."""
    rows = rows.copy()
    position_of = dict(zip(held.columns, held.positions, strict=True))
    for rank in np.flatnonzero(rows[_DIFFERING] > 0):
        rows[_DIFFERS_IN, rank] = position_of.get(int(rows[_DIFFERS_IN, rank]), np.nan)
    if differing:
        agreed = (rows[_DIFFERING] == 0) & ~np.isnan(rows[_BEFORE])
        rows[_DIFFERING, agreed], rows[_DIFFERS_IN, agreed] = differing, differs_in
    return rows


def left_out(step: SubtreeStep, held: HeldParts) -> NDArray[np.bool_] | None:
    """Which of the parts that a subtree holds are missing in its step; None if none is."""
    if step.ranks.shape[1] == 1:
        return None  # of a rank that sends for itself
    unknown = step.table[0] == UNKNOWN
    return unknown[np.array(held.columns, np.int64)] if unknown.any() else None


def as_table(combined: Combined, whole: NDArray[np.bool_]) -> Floats:
    """The statistics as a subtree sends them."""
    with np.errstate(over="ignore"):
        table = np.stack(list(combined.stats.values())).astype(np.float32)
    table[0, ~combined.present] = ABSENT
    table[0, ~whole] = UNKNOWN
    return table


def by_sender(values: Mapping[int, HeldParts], senders: Iterable[int]) -> list[HeldParts]:
    """What these senders hold.

    >>> by_sender({}, [3])[0].columns
    ()
    """
    nothing = HeldParts()
    return [values.get(sender, nothing) for sender in senders]
