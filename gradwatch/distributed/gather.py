"""Gathers the steps of all ranks, in the recorder's thread of rank 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.combine import combine_ranks
from gradwatch.distributed.inbox import ALL_AT_ONCE, Inbox, TakenStep, ranks_in
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import JoinedParts, LocalStep
from gradwatch.distributed.tree import RankTree
from gradwatch.record import RANK_STATS, UPDATE_STATS, Floats, JoinedParameters, ParameterInfo, RankStats, WeightStats

logger = logging.getLogger("gradwatch")

FIRST_PATIENCE, PATIENCE, LAST_PATIENCE = 60.0, 30.0, 5.0
"""Seconds to wait for a rank's first step, for a later one, and for one after the training has ended."""

PAUSE, LONGEST_PAUSE = 0.1, 0.5
"""Seconds between two looks into the mailbox, and the most after which the end of the training is noticed."""

EARLIER = 0.75
"""If all had arrived at the first look after a pause, it is taken for the usual time from here on."""

USUAL_SHARE = 0.9
"""The first look is made after this share of the time that the last steps took to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredStep:
    """One step of all ranks.

    Attributes:
        infos: the parameters of the run.
        stats: each statistic by name, (parameters,) float64.
        present: (parameters,) which parameters had a gradient on any rank.
        weights: None unless every rank sampled them.
        updates: `UPDATE_STATS` by name, (parameters,) float64; None unless every rank read them.
        magnitudes: how many entries are in each of `MAGNITUDE_BINS`, (bins, parameters); None unless every rank
            counted them.
        sentinels: `SENTINEL_STATS` by name, (few,) float64; None if there are none.
        ranks: what is known of each rank.
        loss: mean over the ranks that know one; not finite if one of them is not. None if no rank does.
    """

    infos: tuple[ParameterInfo, ...]
    stats: dict[str, NDArray[np.float64]]
    present: NDArray[np.bool_]
    weights: WeightStats | None
    updates: dict[str, NDArray[np.float64]] | None
    magnitudes: Floats | None
    sentinels: dict[str, NDArray[np.float64]] | None
    ranks: RankStats
    loss: float | None


class RankGatherer:
    """Combines the steps of all ranks, and waits for those that are missing for a limited time."""

    def __init__(self, mailbox: Mailbox, world_size: int, tree: RankTree | None = None) -> None:
        """``tree`` says which ranks are read here, and which by other ranks."""
        self._mailbox = mailbox
        self._tree = tree or RankTree.of_environment(world_size)
        self._inbox = Inbox(mailbox, 0, self._tree.children(0))
        self._joined: dict[str, int] = {}  # number of parameters that `take_joined` has given, by optimizer
        self._closing_since: float | None = None
        self._overlaps = False
        self._usual_wait = 0.0  # seconds until the last steps had arrived

    def open(self, first_steps: dict[str, int]) -> None:
        """Tell the other ranks that this one writes the run, who reads whom, and the first step of each optimizer."""
        self._mailbox.announce("tree", asdict(self._tree))
        if self._tree.neighbours(0):
            self._mailbox.read_node_here()
        self._mailbox.announce("open", first_steps)

    def close(self) -> None:
        """Tell the other ranks that their messages are no longer read."""
        try:
            self._mailbox.announce("closed", True)
        except Exception as error:
            logger.debug("the other ranks could not be told that the recording is closed", exc_info=error)
        self._mailbox.close_node(forward=False)

    def hurry(self) -> None:
        """The training has ended: wait for the other ranks at most `LAST_PATIENCE` from now."""
        self._closing_since = self._closing_since or time.monotonic()

    def first_step(self, optimizer: str, step: int) -> None:
        """Tell the other ranks the first step of an optimizer that was added later."""
        self._mailbox.announce(f"first/{optimizer}", step)

    def known(self, optimizer: str, infos: Sequence[ParameterInfo]) -> None:
        """Set the parameters that the run already has, at positions 0, 1, ..."""
        for info in infos:
            self._inbox.names_of(optimizer).position(info)
        self._joined[optimizer] = len(infos)

    def expect(self, optimizer: str, infos: Sequence[ParameterInfo]) -> None:
        """Give positions to parameters that some rank holds. Those that are new to the run wait for `take_joined`."""
        for info in infos:
            self._inbox.names_of(optimizer).position(info)

    def join(self, rank: int, joined: JoinedParts) -> None:
        """Add parts that a rank holds. Parameters that are new to the run wait for `take_joined`."""
        self._inbox.add(rank, joined)

    def take_joined(self) -> list[JoinedParameters]:
        """The parameters that joined the run since the last call."""
        found = []
        for optimizer, names in self._inbox.names.items():
            begin = self._joined.get(optimizer, 0)
            if len(names.infos) > begin:
                new = tuple(names.infos[begin:])
                found.append(JoinedParameters(optimizer=optimizer, first=begin, infos=new))
                self._joined[optimizer] = len(names.infos)
        return found

    def gather(self, own: LocalStep) -> GatheredStep | None:
        """The step of all ranks whose part on rank 0 is ``own``; waits for the other ranks.

        None if the step can't be known as a whole: a part did not arrive that no rank that was heard holds.
        """
        self._inbox.add(0, own)
        self._wait_for_others(own.optimizer, own.number)
        taken = self._inbox.take(own.optimizer, own.number)
        assert taken is not None
        if taken.layout.overlaps:
            self._read_every_rank()
        if not taken.layout.is_whole or (taken.layout.has_parts and self._some_were_never_heard()):
            return None
        return self._gathered(own.optimizer, taken)

    def _gathered(self, optimizer: str, taken: TakenStep) -> GatheredStep:
        combined = taken.combined
        ranks = combine_ranks(taken.steps, taken.held, combined, range(self._tree.world_size))
        losses = sum(step.losses for step in taken.steps)
        infos = tuple(self._inbox.names_of(optimizer).infos)
        few = combined.sentinels
        return GatheredStep(
            infos=infos,
            stats=combined.stats,
            present=combined.present,
            weights=combined.weights,
            updates=None if combined.updates is None else updates_of(combined.updates, infos),
            magnitudes=combined.magnitudes,
            sentinels=None if few is None else sentinels_of(few, infos),
            ranks=RankStats(**dict(zip(RANK_STATS, ranks, strict=True))),
            loss=sum(step.loss_sum for step in taken.steps) / losses if losses else None,
        )

    def _some_were_never_heard(self) -> bool:
        """Whether there is a rank that has sent nothing yet: which parts it holds is not known."""
        return len(self._inbox.heard) < self._tree.world_size

    def _read_every_rank(self) -> None:
        """Two subtrees share some of their parts only, so that their sums can't be told apart."""
        if not self._overlaps:
            self._overlaps = True
            self._mailbox.announce("flat", True)

    def _wait_for_others(self, optimizer: str, number: int) -> None:
        began = time.monotonic()

        def is_late(rank: int) -> bool:
            return time.monotonic() > self._deadline(began, rank)

        # To ask each rank for letters takes a request for each, so not while they are on their way as usual.
        looks_again = began + max(ALL_AT_ONCE, 2 * self._usual_wait)
        looked = 0
        while True:
            looks = time.monotonic() > looks_again or self._closing_since is not None
            looks_again = time.monotonic() + ALL_AT_ONCE if looks else looks_again
            missing = self._inbox.missing(optimizer, number, one_by_one=looks)
            if not missing:
                waited = time.monotonic() - began
                self._note_wait(waited, looked)
                return
            looked += 1
            if any(map(is_late, missing)):
                say_silent(self._tree, self._inbox.give_up(optimizer, number, is_late), number, own=0)
            else:
                time.sleep(self._pause(time.monotonic() - began))

    def _note_wait(self, waited: float, looked: int) -> None:
        if looked < 2:  # all at the first look: perhaps it was there long before
            self._usual_wait = EARLIER * waited
        elif waited < self._usual_wait / 2:  # the first step takes much longer than those after it
            self._usual_wait = waited
        else:
            self._usual_wait = (self._usual_wait + waited) / 2

    def _pause(self, waited: float) -> float:
        """Seconds until the next look: each costs more than the wait, so most are left out that would find nothing."""
        if self._closing_since is not None:
            return PAUSE
        return max(PAUSE, min(LONGEST_PAUSE, USUAL_SHARE * self._usual_wait - waited))

    def _deadline(self, began: float, rank: int) -> float:
        deadline = began + (PATIENCE if self._inbox.senders[rank].heard else FIRST_PATIENCE)
        return deadline if self._closing_since is None else min(deadline, self._closing_since + LAST_PATIENCE)


def updates_of(norms: Floats, infos: Sequence[ParameterInfo]) -> dict[str, NDArray[np.float64]]:
    """`UPDATE_STATS` of whole parameters; rms_ratio comes as a norm, and is the root of a mean over all entries."""
    found = {name: row.astype(np.float64) for name, row in zip(UPDATE_STATS, norms, strict=True)}
    sizes = np.array([max(info.numel, 1) for info in infos[: norms.shape[1]]], np.float64)
    return found | {"rms_ratio": found["rms_ratio"] / np.sqrt(sizes)}


def sentinels_of(table: Floats, infos: Sequence[ParameterInfo]) -> dict[str, NDArray[np.float64]]:
    """`SENTINEL_STATS` of those few parameters."""
    positions = table[0].astype(np.int64).tolist()
    return {"position": table[0].astype(np.float64), **updates_of(table[1:], [infos[at] for at in positions])}


def say_silent(tree: RankTree, late: Sequence[int], number: int, *, own: int) -> None:
    """Warn that these ranks, and those that send through them, have not been heard."""
    if not late:
        return
    silent = {one for rank in late for one in ((rank,) if rank == own else tree.subtree(rank))}
    logger.warning(
        "%s not been heard since step %d of this recording. Attach gradwatch in every process."
        " What only %s missing from here on (rank-silent)",
        f"Rank {ranks_in(silent)} has" if len(silent) == 1 else f"Ranks {ranks_in(silent)} have",
        number,
        "that rank knows is" if len(silent) == 1 else "those ranks know is",
    )
