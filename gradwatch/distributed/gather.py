"""Gathers the steps of all ranks, in the recorder's thread of rank 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.combine import RankLayout, RankParts, combine, combine_weights, widened
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import Ended, JoinedParts, LocalStep, unpack
from gradwatch.record import Floats, JoinedParameters, ParameterInfo, RankStats, WeightStats

logger = logging.getLogger("gradwatch")

FIRST_PATIENCE, PATIENCE, LAST_PATIENCE = 60.0, 30.0, 5.0
"""Seconds to wait for a rank's first step, for a later one, and for one after the training has ended."""

MAX_WAITING_STEPS = 10_000
"""Steps of one rank to keep for later."""

PAUSE = 0.1
"""Seconds between two looks into the mailbox."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredStep:
    """One step of all ranks.

    Attributes:
        infos: the parameters of the run.
        stats: each statistic by name, (parameters,) float64.
        present: (parameters,) which parameters had a gradient on any rank.
        weights: None unless every rank sampled them.
        ranks: what is known of each rank.
        losses: of the ranks that know one.
    """

    infos: tuple[ParameterInfo, ...]
    stats: dict[str, NDArray[np.float64]]
    present: NDArray[np.bool_]
    weights: WeightStats | None
    ranks: RankStats
    losses: list[float]


@dataclass(slots=True)
class _RankState:
    """What rank 0 has heard from one rank so far."""

    held: dict[str, RankParts] = field(default_factory=dict)  # by optimizer
    steps: dict[tuple[str, int], LocalStep] = field(default_factory=dict)  # that have not been gathered yet
    latest: dict[str, int] = field(default_factory=dict)  # number of the last step, by optimizer
    heard: bool = False
    ended: bool = False
    silent: bool = False

    def take(self, optimizer: str, number: int) -> LocalStep | None:
        """The step of that number if it has arrived. Earlier ones will not be asked for again and are dropped."""
        step = self.steps.pop((optimizer, number), None)
        if step is not None:
            self.silent = False
            for old in [key for key in self.steps if key[0] == optimizer and key[1] < number]:
                del self.steps[old]
        return step

    def will_not_send(self, optimizer: str, number: int) -> bool:
        """Whether the step of that number is not going to arrive."""
        return self.ended or self.silent or self.latest.get(optimizer, -1) > number

    def add(self, step: LocalStep) -> None:
        self.steps[step.optimizer, step.number] = step
        self.latest[step.optimizer] = step.number
        if len(self.steps) > MAX_WAITING_STEPS:  # they are of an optimizer that rank 0 does not have
            del self.steps[next(iter(self.steps))]


class RankGatherer:
    """Knows which parts every rank holds, and waits for their steps for a limited time."""

    def __init__(self, mailbox: Mailbox, world_size: int) -> None:
        self._mailbox = mailbox
        self._ranks = [_RankState() for _ in range(world_size)]
        self._infos: dict[str, list[ParameterInfo]] = {}
        self._positions: dict[str, dict[str, int]] = {}
        self._layouts: dict[tuple[str, tuple[int, ...]], RankLayout] = {}
        self._joined: list[JoinedParameters] = []
        self._closing_since: float | None = None

    def open(self, first_steps: dict[str, int]) -> None:
        """Tell the other ranks that this one writes the run, and the first step of each optimizer."""
        self._mailbox.announce("open", first_steps)

    def close(self) -> None:
        """Tell the other ranks that their messages are no longer read."""
        try:
            self._mailbox.announce("closed", True)
        except Exception as error:
            logger.debug("the other ranks could not be told that the recording is closed", exc_info=error)

    def hurry(self) -> None:
        """The training has ended: wait for the other ranks at most `LAST_PATIENCE` from now."""
        self._closing_since = self._closing_since or time.monotonic()

    def first_step(self, optimizer: str, step: int) -> None:
        """Tell the other ranks the first step of an optimizer that was added later."""
        self._mailbox.announce(f"first/{optimizer}", step)

    def known(self, optimizer: str, infos: Sequence[ParameterInfo]) -> None:
        """Set the parameters that the run already has, at positions 0, 1, ..."""
        self._infos[optimizer] = list(infos)
        self._positions[optimizer] = {info.name: at for at, info in enumerate(infos)}

    def join(self, rank: int, joined: JoinedParts) -> None:
        """Add parts that a rank holds. Parameters that are new to the run wait for `take_joined`."""
        infos = self._infos.setdefault(joined.optimizer, [])
        positions = self._positions.setdefault(joined.optimizer, {})
        held = self._ranks[rank].held.setdefault(joined.optimizer, RankParts())
        begin = len(infos)
        for column, part in enumerate(joined.parts, joined.first):
            if part is None or column in held.columns:
                continue
            if part.info.name not in positions:
                positions[part.info.name] = len(infos)
                infos.append(part.info)
            held.columns.append(column)
            held.positions.append(positions[part.info.name])
            held.parts.append(part.part)
        if len(infos) > begin:
            new = JoinedParameters(optimizer=joined.optimizer, first=begin, infos=tuple(infos[begin:]))
            self._joined.append(new)
        self._layouts.clear()

    def take_joined(self) -> list[JoinedParameters]:
        """The parameters that joined the run since the last call."""
        joined, self._joined = self._joined, []
        return joined

    def gather(self, own: LocalStep) -> GatheredStep | None:
        """The step of all ranks whose part on rank 0 is ``own``; waits for the other ranks.

        None if the step can't be known as a whole: a part did not arrive that no rank that was heard holds.
        """
        others = range(1, len(self._ranks))
        steps = {0: own} | {
            rank: step for rank in others if (step := self._wait_for(rank, own.optimizer, own.number)) is not None
        }
        layout = self._layout(own.optimizer, tuple(steps))
        if not layout.is_whole or (layout.has_parts and self._some_never_heard(steps)):
            return None
        return self._combined(own, steps, layout)

    def _combined(self, own: LocalStep, steps: Mapping[int, LocalStep], layout: RankLayout) -> GatheredStep:
        """The step of the ranks that were heard."""
        heard = tuple(steps)
        wide = [widened(step, columns) for step, columns in zip(steps.values(), layout.columns, strict=True)]
        infos = tuple(self._infos[own.optimizer])
        stats = tuple(name for name in own.stats if all(name in step.stats for step in wide))
        combined = combine(layout, wide, stats, len(infos))
        return GatheredStep(
            infos=infos,
            stats=combined.stats,
            present=combined.present,
            weights=combine_weights(layout, wide, len(infos)),
            ranks=RankStats(
                norm=self._by_rank(heard, [step.norm for step in wide]),
                nonfinite=self._by_rank(heard, [step.nonfinite for step in wide]),
                differing=self._by_rank(heard, combined.differing),
                differs_in=self._by_rank(heard, combined.differs_in),
                before_reduction=self._by_rank(heard, [float(step.before_reduction) for step in wide]),
            ),
            losses=[step.loss for step in wide if step.loss is not None],
        )

    def _some_never_heard(self, steps: Mapping[int, LocalStep]) -> bool:
        """Whether a rank that has sent nothing yet is missing: which parts it holds is not known."""
        return any(rank not in steps and not state.heard for rank, state in enumerate(self._ranks))

    def _by_rank(self, heard: Sequence[int], values: Sequence[float]) -> Floats:
        """(ranks,) float32, NaN for a rank that was not heard."""
        found = np.full(len(self._ranks), np.nan, np.float32)
        with np.errstate(over="ignore"):
            found[list(heard)] = values
        return found

    def _layout(self, optimizer: str, heard: tuple[int, ...]) -> RankLayout:
        key = (optimizer, heard)
        if key not in self._layouts:
            self._layouts[key] = RankLayout.of([r.held.get(optimizer, RankParts()) for r in self._ranks], heard)
        return self._layouts[key]

    def _wait_for(self, rank: int, optimizer: str, number: int) -> LocalStep | None:
        state = self._ranks[rank]
        deadline = None
        while True:
            self._read(rank)
            step = state.take(optimizer, number)
            if step is not None or state.will_not_send(optimizer, number):
                return step
            now = time.monotonic()
            deadline = deadline or now + (PATIENCE if state.heard else FIRST_PATIENCE)
            if now > self._no_later_than(deadline):
                self._give_up_on(rank, number)
                return None
            time.sleep(PAUSE)

    def _no_later_than(self, deadline: float) -> float:
        return deadline if self._closing_since is None else min(deadline, self._closing_since + LAST_PATIENCE)

    def _give_up_on(self, rank: int, number: int) -> None:
        self._ranks[rank].silent = True
        logger.warning(
            "Rank %d has not been heard since step %d of this recording. Attach gradwatch in every process."
            " What only that rank knows is missing from here on (rank-silent)",
            rank,
            number,
        )

    def _read(self, rank: int) -> None:
        state = self._ranks[rank]
        while not state.ended and (message := self._mailbox.receive(rank)) is not None:
            state.heard = True
            for item in unpack(message):
                if isinstance(item, JoinedParts):
                    self.join(rank, item)
                elif isinstance(item, LocalStep):
                    state.add(item)
                elif isinstance(item, Ended):
                    state.ended = True
