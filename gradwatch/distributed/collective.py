"""Adds up the steps of all ranks by all-reduces, in a process group of its own.

The threads that send and record meet in rounds, about four in a second: a short all-reduce tells which steps all ranks
have measured, and if there are any, the next ones add these up in one table. A step is never waited for, so ranks may
be steps apart; what is waited for, in these threads and for a limited time, is that every rank's thread takes part.

As soon as one does not, fails, or leaves because it is done, the collective ends for all, and what it has not carried
goes by letters (`Mailbox`), which need no other rank to do anything.

The group is gloo's, on a training by NCCL too: the numbers are on the host when records are made, and NCCL ends the
whole process where one rank stays away. It is not registered with torch.distributed, whose groups all ranks must make
in the same order, and which the script may destroy.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed import gather
from gradwatch.distributed.agreement import Plans, TablePlan
from gradwatch.distributed.combine import TOLERANCE
from gradwatch.distributed.gather import GatheredStep
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import ABSENT, LocalStep
from gradwatch.record import (
    MAGNITUDE_BINS,
    MOST_COUNTED,
    RANK_STATS,
    STATS,
    UPDATE_STATS,
    Floats,
    ParameterInfo,
    RankStats,
    WeightStats,
)

logger = logging.getLogger("gradwatch")

Table = NDArray[np.float64]

MOST_BYTES = 2 * 2**20
"""Of the steps that are added up at once, about."""

MOST_ROUNDS = 16
"""After which a thread first does what else it has to do."""

PATIENCE = 30.0
"""Seconds in which every rank has to take part in a round."""

LOOKS = 1.0
"""Seconds between two looks whether another rank has ended the collective, while a round lasts."""

GLOO_AFTER = 5.0
"""Seconds after this side that gloo gives up."""

_OPTIONAL = (*STATS[1:], "weights", "updates", "magnitudes", "sentinels")
_CLOSED, _CHANGED = 1.0, 2.0  # why a rank leaves
_LETTERS = "letters"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AddedStep:
    """A step that left the collective in rank 0; ``whole`` is None if some rank did not measure it."""

    optimizer: str
    number: int
    whole: GatheredStep | None


class _Ended(Exception):
    """Another rank has ended the collective."""


class RankCollective:
    """The steps of this rank on their way into the sums of all ranks. One thread may use it.

    Attributes:
        is_open: whether steps are added up. Once it is closed, the rest is `left_over`.
    """

    def __init__(self, mailbox: Mailbox, world_size: int, plans: Plans, every: int) -> None:
        """Connect to all other ranks, which do the same; raises what PyTorch raises if that fails.

        ``every`` is by how much the numbers of the steps of an optimizer grow.
        """
        import torch.distributed as dist

        self.is_open = True
        self._mailbox = mailbox
        self._rank, self._world_size = mailbox.rank, world_size
        self._plans, self._every = plans, every
        self._steps: dict[str, deque[LocalStep]] = {optimizer: deque() for optimizer in plans}
        self._unconfirmed: list[LocalStep] = []  # carried, and rank 0 may not have them
        self._later: deque[LocalStep] = deque()  # that this collective can't carry
        self._leaves = 0.0
        self._closing_since: float | None = None
        self._group: Any = dist.ProcessGroupGloo(
            mailbox.store_of_group(), self._rank, world_size, timedelta(seconds=PATIENCE + GLOO_AFTER)
        )
        # Its end waits for a collective under way, and in a forked child for threads that are not there.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._group))

    def add(self, step: LocalStep) -> bool:
        """Take a step of this rank; False if it is to go by letters."""
        plan = self._plans.get(step.optimizer)
        if not self.is_open or plan is None:
            return False
        if step.table.shape[1] != plan.own_width:  # parameters joined
            self._leaves = _CHANGED
        steps = self._later if self._leaves else self._steps[step.optimizer]
        steps.append(step)
        return True

    def hurry(self) -> None:
        """The training has ended: wait for the other ranks at most `gather.LAST_PATIENCE` from now."""
        self._closing_since = self._closing_since or time.monotonic()

    def abandon(self) -> None:
        """Take part no more; the other ranks, which would wait, are told."""
        if self.is_open:
            self.is_open = False
            try:
                self._mailbox.announce(_LETTERS, True)
            except Exception as error:
                logger.debug("the other ranks could not be told that the collective has ended", exc_info=error)

    def advance(self, *, leaving: bool = False) -> list[AddedStep]:
        """Take part in rounds while they carry steps. Returns those of rank 0.

        With ``leaving`` this rank is done, and the collective ends when all has been carried that can be.
        """
        found: list[AddedStep] = []
        self._leaves = self._leaves or (_CLOSED if leaving else 0.0)
        try:
            was_idle = False
            for _ in itertools.count() if leaving else range(MOST_ROUNDS):
                waits = any(self._steps.values()) and not was_idle
                carried, left = self._round(found, 0.0 if waits else self._leaves)
                if left:
                    self._close(left)
                if not self.is_open or not (carried or self._leaves):
                    break
                was_idle = not carried
        except Exception as fault:
            self._fail(fault)
        return found

    def left_over(self) -> list[LocalStep]:
        """What the collective has not carried, or not for sure, in order."""
        steps = [*self._unconfirmed, *itertools.chain(*self._steps.values(), self._later)]
        self._unconfirmed = []
        for queue in (*self._steps.values(), self._later):
            queue.clear()
        return sorted(steps, key=lambda step: step.number)

    # ------------------------------------------------------------------------------------ how it ends

    def _close(self, why: float) -> None:
        """All ranks are here and know that one leaves: nothing is under way."""
        self.is_open = False
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(self._group))
        self._group = None
        if why >= _CHANGED and self._rank == 0:
            self._say("a rank trains other parameters now")

    def _fail(self, fault: Exception) -> None:
        logger.debug("the collective has failed", exc_info=fault)
        self.abandon()
        if self._rank == 0 and self._closing_since is None:
            what = re.sub(r"^\[[^]]*\] *", "", str(fault)).partition(". This is typically")[0]  # gloo's own source file
            self._say(what or type(fault).__name__)

    def _say(self, why: str) -> None:
        waiting = [step.number for steps in self._steps.values() for step in itertools.islice(steps, 1)]
        logger.warning(
            "The ranks no longer add up their numbers by a collective%s: %s. The numbers go through the key-value"
            " store, as with ranks=True (collective-ended)",
            f" from step {min(waiting)} of this recording on" if waiting else "",
            why,
        )

    # -------------------------------------------------------------------------------------- one round

    def _round(self, found: list[AddedStep], leaves: float) -> tuple[bool, float]:
        """Whether it has carried a step or dropped one, and why some rank leaves; 0 if none does."""
        runs = {optimizer: self._run(optimizer) for optimizer in self._plans}
        heads = self._reduce(_heads(list(runs.values()), leaves), largest=True)
        self._unconfirmed = []  # rank 0 begins this round after it had all of the last
        carried = False
        for (optimizer, plan), (last, first, length, *have) in zip(self._plans.items(), heads[1:], strict=True):
            if not length:
                continue
            carried = True
            if -first < last:
                found += self._drop(optimizer, int(last))
            else:
                has = [name for name, all_have in zip(_OPTIONAL, have, strict=True) if all_have]
                found += self._carry(plan, runs[optimizer][: int(-length)], has)
        return carried, float(heads[0, 0])

    def _run(self, optimizer: str) -> list[LocalStep]:
        """The next steps that have the same statistics and leave out no number."""
        steps, found = self._steps[optimizer], list[LocalStep]()
        rows = 4 + len(STATS) + len(UPDATE_STATS)
        most = max(1, MOST_BYTES // (8 * rows * max(1, self._plans[optimizer].parameters)))
        for step in itertools.islice(steps, most):
            if found and (step.number != found[-1].number + self._every or _has(step) != _has(found[0])):
                break
            found.append(step)
        return found

    def _drop(self, optimizer: str, begin: int) -> Iterator[AddedStep]:
        """Leave out the steps before this one: some rank has none of them."""
        steps = self._steps[optimizer]
        while steps and steps[0].number < begin:
            number = steps.popleft().number
            if self._rank == 0:
                yield AddedStep(optimizer=optimizer, number=number, whole=None)

    def _carry(self, plan: TablePlan, steps: Sequence[LocalStep], has: Sequence[str]) -> Iterator[AddedStep]:
        """Add these steps up over the ranks."""
        sums = self._reduce(np.stack([_sums(step, plan, has) for step in steps]))
        maxima = np.stack([_maxima(step, plan) for step in steps]) if "abs_max" in has else None
        if maxima is not None:
            self._reduce(maxima, largest=True)
        ranks = np.stack([self._of_rank(step, plan, total) for step, total in zip(steps, sums, strict=True)])
        self._reduce(ranks)
        queue = self._steps[steps[0].optimizer]
        for at, step in enumerate(steps):
            queue.popleft()
            if self._rank == 0:
                largest = None if maxima is None else maxima[at]
                whole = _gathered(plan, has, sums[at], largest, ranks[at], self._world_size)
                yield AddedStep(optimizer=step.optimizer, number=step.number, whole=whole)
            else:
                self._unconfirmed.append(step)

    def _of_rank(self, step: LocalStep, plan: TablePlan, sums: Table) -> Table:
        """The column of `RANK_STATS` of this rank, and the loss that it knows."""
        count, first = _differing(step, plan, sums)
        table = np.zeros((len(RANK_STATS) + 1, self._world_size))
        table[:-1, self._rank] = step.norm, step.nonfinite, count, first, step.before_reduction
        losses = np.array([step.loss or 0.0, step.loss is not None], np.float64)
        return np.concatenate([table[:-1].reshape(-1), losses])

    def _reduce(self, values: Table, *, largest: bool = False) -> Table:
        """Add up the values of all ranks in place, or take the largest."""
        import torch
        import torch.distributed as dist

        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp(dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        self._wait(self._group.allreduce([torch.from_numpy(values.reshape(-1))], options))
        return values

    def _wait(self, work: Any) -> None:
        began = looked = time.monotonic()
        pause = 0.0005
        while not work.is_completed():
            now = time.monotonic()
            if now > self._deadline(began):
                raise TimeoutError(f"a rank has not taken part for {now - began:.0f} s")
            if now > looked + LOOKS:
                looked = now
                if self._mailbox.announced(_LETTERS) is not None:
                    raise _Ended("a rank has ended it")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        work.wait()  # raises what went wrong

    def _deadline(self, began: float) -> float:
        deadline = began + PATIENCE
        return deadline if self._closing_since is None else min(deadline, self._closing_since + gather.LAST_PATIENCE)


def _has(step: LocalStep) -> tuple[bool, ...]:
    """Which of `_OPTIONAL` a step has."""
    tables = (step.weights, step.updates, step.magnitudes, step.sentinels)
    return (*(name in step.stats for name in STATS[1:]), *(table is not None for table in tables))


def _heads(runs: Sequence[Sequence[LocalStep]], leaves: float) -> Table:
    """What a rank has of each optimizer, so that the largest of all ranks tells what all have.

    That is the first number, and negative: the first number, how many steps follow it, and which of `_OPTIONAL` these
    have. The first row tells whether the rank leaves.
    """
    heads = np.zeros((1 + len(runs), 3 + len(_OPTIONAL)))
    heads[0, 0] = leaves
    for row, run in zip(heads[1:], runs, strict=True):
        if run:
            row[:] = [run[0].number, -run[0].number, -len(run), *(-float(one) for one in _has(run[0]))]
    return heads


def _sums(step: LocalStep, plan: TablePlan, has: Sequence[str]) -> Table:
    """What this rank adds to a step: squares of norms, and counts, (rows, parameters)."""
    columns, positions = plan.columns[plan.counted], plan.positions[plan.counted]
    own = step.table[:, columns].astype(np.float64)
    there = own[0] != ABSENT
    counts = [own[step.stats.index(name)] for name in ("nonfinite", "zeros") if name in has]
    rows = [np.where(there, row, 0.0) for row in (own[0] ** 2, np.ones(len(columns)), *counts)]
    for name, norms in (("weights", step.weights), ("updates", step.updates)):
        if name in has and norms is not None:
            rows += [*norms[:, columns].astype(np.float64) ** 2]
    if "magnitudes" in has and step.magnitudes is not None:
        rows += [*np.nan_to_num(step.magnitudes[:, columns].astype(np.float64), nan=0.0)]
    if "sentinels" in has and step.sentinels is not None:
        rows += [*_sentinel_rows(step.sentinels, columns)]
    table = np.zeros((len(rows), plan.parameters))
    table[:, positions] = rows
    return table


def _sentinel_rows(sentinels: Floats, columns: NDArray[np.int64]) -> Table:
    """Of each column whether it was not read, and else the squares of the norms, (1 + 4, columns)."""
    rows = np.zeros((len(sentinels), len(columns)))
    rows[0] = 1.0
    _, here, read = np.intersect1d(columns, sentinels[0], assume_unique=True, return_indices=True)
    known = ~np.isnan(sentinels[1, read])
    rows[:, here[known]] = [np.zeros(known.sum()), *sentinels[1:, read[known]].astype(np.float64) ** 2]
    return rows


def _maxima(step: LocalStep, plan: TablePlan) -> Table:
    """The largest entries of what this rank holds, and where they are NaN, which a maximum may lose."""
    columns, positions = plan.columns[plan.counted], plan.positions[plan.counted]
    own = step.table[step.stats.index("abs_max"), columns].astype(np.float64)
    own[step.table[0, columns] == ABSENT] = 0.0
    table = np.zeros((2, plan.parameters))
    table[:, positions] = np.where(np.isnan(own), 0.0, own), np.isnan(own)
    return table


def _differing(step: LocalStep, plan: TablePlan, sums: Table) -> tuple[int, float]:
    """How many of this rank's copies are not the one that is counted, and the position of the first; NaN if none."""
    columns, positions = plan.columns[plan.compared], plan.positions[plan.compared]
    counted = np.where(sums[1, positions] > 0, np.sqrt(sums[0, positions]), ABSENT)
    copies = step.table[0, columns].astype(np.float64)
    counted, copies = (np.nan_to_num(one, nan=-2.0, posinf=np.finfo(np.float64).max) for one in (counted, copies))
    differs = np.flatnonzero(np.abs(copies - counted) > TOLERANCE * np.maximum(np.abs(copies), np.abs(counted)))
    return len(differs), float(positions[differs].min()) if len(differs) else np.nan


def _gathered(
    plan: TablePlan, has: Sequence[str], sums: Table, maxima: Table | None, ranks: Table, world_size: int
) -> GatheredStep:
    """The step of all ranks from what they added up."""
    present = sums[1] > 0
    rows = iter(sums[2:])
    stats = {"norm": np.sqrt(sums[0])}
    if maxima is not None:
        stats["abs_max"] = np.where(maxima[1] > 0, np.nan, maxima[0])
    stats |= {name: next(rows) for name in ("nonfinite", "zeros") if name in has}
    stats = {name: np.where(present, row, np.nan) for name, row in stats.items()}
    # In the order of `_sums`.
    weights = _weights(rows) if "weights" in has else None
    updates = gather.updates_of(_norms(rows, len(UPDATE_STATS)), plan.infos) if "updates" in has else None
    magnitudes = _magnitudes(rows, present) if "magnitudes" in has else None
    sentinels = _sentinels(rows, plan.infos) if "sentinels" in has else None
    with np.errstate(over="ignore"):
        columns = ranks[:-2].reshape(len(RANK_STATS), world_size).astype(np.float32)
    return GatheredStep(
        infos=plan.infos,
        stats=stats,
        present=present,
        weights=weights,
        updates=updates,
        magnitudes=magnitudes,
        sentinels=sentinels,
        ranks=RankStats(**dict(zip(RANK_STATS, _first_if_all_differ(columns), strict=True))),
        loss=float(ranks[-2] / ranks[-1]) if ranks[-1] else None,
    )


def _norms(rows: Iterator[Floats], count: int) -> Floats:
    """The norms whose squares are the next rows."""
    squares = np.stack([next(rows) for _ in range(count)])
    with np.errstate(over="ignore"):
        return np.sqrt(squares).astype(np.float32)


def _weights(rows: Iterator[Floats]) -> WeightStats:
    weight_norm, update_norm = _norms(rows, 2)
    return WeightStats(weight_norm=weight_norm, update_norm=update_norm)


def _magnitudes(rows: Iterator[Floats], present: NDArray[np.bool_]) -> Floats:
    """The entries of each magnitude, which the next rows count; NaN of a parameter without a gradient."""
    counts = np.stack([next(rows) for _ in MAGNITUDE_BINS])
    return np.where(present, np.minimum(counts, MOST_COUNTED), np.nan).astype(np.float32)


def _sentinels(rows: Iterator[Floats], infos: Sequence[ParameterInfo]) -> dict[str, NDArray[np.float64]] | None:
    """`SENTINEL_STATS` of the parameters of which every rank read its part; None if there is none."""
    missing, *squares = (next(rows) for _ in range(1 + len(UPDATE_STATS)))
    positions = np.flatnonzero(missing == 0)
    if not len(positions):
        return None
    norms = _norms(iter(row[positions] for row in squares), len(squares))
    return gather.sentinels_of(np.stack([positions.astype(np.float32), *norms]), infos)


def _first_if_all_differ(ranks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Call the first rank the odd one if all others, two or more, have other copies than it."""
    differing, differs_in = ranks[RANK_STATS.index("differing")], ranks[RANK_STATS.index("differs_in")]
    if len(differing) > 2 and (differing[1:] > 0).all():
        differing[:] = [differing[1:].max(), *[0.0] * (len(differing) - 1)]
        differs_in[:] = [np.nanmin(differs_in[1:]), *[np.nan] * (len(differing) - 1)]
    return ranks
