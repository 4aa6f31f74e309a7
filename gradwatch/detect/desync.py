"""Ranks that drift apart: gradients that should be equal but differ, or one rank whose norm leaves the others."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from gradwatch.detect.episode import Episode
from gradwatch.record import Event, RankStats, StepRecord, event_at
from gradwatch.text import number

WINDOW_STEPS = 200
APART_FRACTION, USUAL_FRACTION = 0.9, 0.5
"""Fraction of the window at which a rank has left the others, and of the first window at which that is usual."""

APART_FACTOR = 2.0
"""A rank stands apart at this factor above the largest norm of the others, or below the smallest."""

MIN_RANKS = 3
"""Of two ranks neither can be said to stand apart."""


class Desync:
    """Finds ranks that no longer train the same model, or not on the same kind of data.

    Critical: of a gradient that several ranks hold, one rank has another (relative difference of the norms
    above 1e-5); their weights differ from here on. Warning: the norm of one rank's own gradient, before it
    was reduced over the ranks, was more than twice or less than half that of every other rank in nine of ten
    of the last 200 steps, and in less than half of the first 200.
    """

    def __init__(self) -> None:
        self._differing = Episode()
        self._apart: deque[int | None] = deque(maxlen=WINDOW_STEPS)
        self._usual: set[int] | None = None  # ranks that stood apart from the beginning
        self._reported: set[int] = set()

    def update(self, record: StepRecord) -> list[Event]:
        if record.ranks is None:
            return []
        return self._find_differing(record, record.ranks) + self._find_leaving(record, record.ranks)

    def _find_differing(self, record: StepRecord, ranks: RankStats) -> list[Event]:
        differing = [int(rank) for rank in np.flatnonzero(ranks.differing > 0)]
        if not differing:
            return self._differing.calm()
        if self._differing.event is not None:
            return self._differing.again(record.step)
        return self._differing.alarm(_differs(record, ranks, differing))

    def _find_leaving(self, record: StepRecord, ranks: RankStats) -> list[Event]:
        if not _can_be_compared(ranks):
            return []
        self._apart.append(_rank_apart(ranks))
        if len(self._apart) < WINDOW_STEPS:
            return []
        counts = {rank: self._apart.count(rank) for rank in set(self._apart) if rank is not None}
        if self._usual is None:
            self._usual = {rank for rank, count in counts.items() if count >= USUAL_FRACTION * WINDOW_STEPS}
        left = {rank for rank, count in counts.items() if count >= APART_FRACTION * WINDOW_STEPS}
        new = left - self._usual - self._reported
        self._reported |= new
        return [_leaves(record, ranks, rank, counts[rank]) for rank in counts if rank in new]


def _differs(record: StepRecord, ranks: RankStats, differing: list[int]) -> Event:
    rank = differing[0]
    count, parameter = int(ranks.differing[rank]), None
    if record.layers is not None and not math.isnan(ranks.differs_in[rank]):
        parameter = record.layers.parameters[int(ranks.differs_in[rank])].name
    others = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    what = f"the gradient of {parameter}" if count == 1 else f"{count} gradients, of {parameter} and others,"
    return event_at(
        record,
        kind="desync",
        severity="critical",
        message=f"in rank {rank}{others} {what} {'differs' if count == 1 else 'differ'} from the other ranks'",
        parameter=parameter,
        observed=float(count),
        limit=0.0,
        rank=rank,
    )


def _leaves(record: StepRecord, ranks: RankStats, rank: int, count: int) -> Event:
    others = np.delete(ranks.norm, rank)
    return event_at(
        record,
        kind="desync",
        severity="warning",
        message=f"the gradient of rank {rank} has left those of the other ranks: in {count} of the last"
        f" {WINDOW_STEPS} steps its norm was more than twice or less than half of every other (now"
        f" {number(ranks.norm[rank])}; others {number(others.min())} to {number(others.max())})",
        observed=float(ranks.norm[rank]),
        limit=float(others.max()),
        rank=rank,
    )


def _can_be_compared(ranks: RankStats) -> bool:
    is_own = bool((ranks.before_reduction == 1).all())
    return len(ranks.norm) >= MIN_RANKS and is_own and bool(np.isfinite(ranks.norm).all())


def _rank_apart(ranks: RankStats) -> int | None:
    """The rank whose norm is far from all others; None if there is none."""
    order = np.argsort(ranks.norm)
    low, high = ranks.norm[order[:2]], ranks.norm[order[-2:]]
    if high[1] > APART_FACTOR * high[0]:
        return int(order[-1])
    if low[0] * APART_FACTOR < low[1]:
        return int(order[0])
    return None
