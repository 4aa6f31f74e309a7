"""Ranks that part: gradients that should be equal and are not, or one rank whose norm leaves the others."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from gradwatch.detect.episode import Episode
from gradwatch.record import Event, RankStats, StepRecord

WINDOW = 200  # steps over which a rank has to stand apart
SHARE = 0.9  # of them
TIMES = 2.0  # the largest, or one over it the smallest, norm of the others


class Desync:
    """Finds ranks that no longer train the same model, or not on the same kind of data.

    Critical: of a gradient that several ranks hold, one has another (relative difference of the norms
    above 1e-5): their weights part from here on. Warning: the norm of one rank's own gradient, before it
    was reduced over the ranks, was more than twice that of every other rank, or less than half, in nine
    of ten of the last 200 steps, and in less than half of the first 200.
    """

    def __init__(self) -> None:
        self._differing = Episode()
        self._apart: deque[int | None] = deque(maxlen=WINDOW)
        self._usual: set[int] | None = None  # ranks that stood apart from the beginning
        self._told: set[int] = set()

    def update(self, record: StepRecord) -> list[Event]:
        if record.ranks is None:
            return []
        return self._look_for_difference(record, record.ranks) + self._look_for_leaving(record, record.ranks)

    def _look_for_difference(self, record: StepRecord, ranks: RankStats) -> list[Event]:
        differing = np.flatnonzero(ranks.differing > 0)
        if not len(differing):
            return self._differing.calm()
        if self._differing.event is not None:
            return self._differing.again(record.step)
        rank = int(differing[0])
        count, parameter = int(ranks.differing[rank]), None
        if record.layers is not None and not math.isnan(ranks.differs_in[rank]):
            parameter = record.layers.parameters[int(ranks.differs_in[rank])].name
        others = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        what = f"the gradient of {parameter}" if count == 1 else f"{count} gradients, of {parameter} and others,"
        return self._differing.alarm(
            Event(
                step=record.step,
                kind="desync",
                severity="critical",
                parameter=parameter,
                observed=float(count),
                limit=0.0,
                message=f"in rank {rank}{others} {what} {'is' if count == 1 else 'are'} not what the other ranks have:"
                " their weights part here",
                optimizer=record.optimizer,
                attempt=record.attempt,
                rank=rank,
            )
        )

    def _look_for_leaving(self, record: StepRecord, ranks: RankStats) -> list[Event]:
        if not (ranks.before_reduction == 1).all() or len(ranks.norm) < 3 or not np.isfinite(ranks.norm).all():
            return []
        self._apart.append(_apart(ranks))
        if len(self._apart) < WINDOW:
            return []
        counts = {rank: self._apart.count(rank) for rank in set(self._apart) if rank is not None}
        if self._usual is None:
            self._usual = {rank for rank, count in counts.items() if count >= WINDOW / 2}
        return [
            self._leaves(record, ranks, rank, count)
            for rank, count in counts.items()
            if count >= SHARE * WINDOW and rank not in self._usual | self._told
        ]

    def _leaves(self, record: StepRecord, ranks: RankStats, rank: int, count: int) -> Event:
        self._told.add(rank)
        others = np.delete(ranks.norm, rank)
        return Event(
            step=record.step,
            kind="desync",
            severity="warning",
            observed=float(ranks.norm[rank]),
            limit=float(others.max()),
            message=f"the gradient of rank {rank} has left those of the others: in {count} of the last {WINDOW} steps"
            f" its norm was more than twice or less than half of every other (now {ranks.norm[rank]:.3g}; others"
            f" {others.min():.3g} to {others.max():.3g}). Look at its data, then at its device",
            optimizer=record.optimizer,
            attempt=record.attempt,
            rank=rank,
        )


def _apart(ranks: RankStats) -> int | None:
    """The rank whose norm is far from all others, if there is one."""
    order = np.argsort(ranks.norm)
    low, high = ranks.norm[order[:2]], ranks.norm[order[-2:]]
    if high[1] > TIMES * high[0]:
        return int(order[-1])
    if low[0] * TIMES < low[1]:
        return int(order[0])
    return None
