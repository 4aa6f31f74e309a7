"""All ranks' parts of a step, brought together in the recorder's thread of rank 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.combine import Holding, Layout, combine, widened
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import Ended, Joined, LocalStep, unpack
from gradwatch.record import Floats, ParameterInfo, RankStats, WeightStats

logger = logging.getLogger("gradwatch")

FIRST_PATIENCE, PATIENCE, LAST_PATIENCE = 60.0, 30.0, 5.0  # seconds for a rank's first step, a later one, at the end
MOST_KEPT = 10_000  # steps of a rank that rank 0 has not come to
PAUSE = 0.1  # seconds between two looks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whole:
    """A step of all ranks.

    Attributes:
        columns: each statistic of each parameter as a whole, float64.
        present: which parameters had a gradient anywhere.
        weights: where every part was sampled.
        losses: of the ranks that know one.
    """

    infos: tuple[ParameterInfo, ...]
    columns: dict[str, NDArray[np.float64]]
    present: NDArray[np.bool_]
    weights: WeightStats | None
    ranks: RankStats
    losses: list[float]


@dataclass(slots=True)
class _Member:
    """One rank, as far as it has been heard."""

    holdings: dict[str, Holding] = field(default_factory=dict)  # by optimizer
    steps: dict[tuple[str, int], LocalStep] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    heard: bool = False
    ended: bool = False
    silent: bool = False


class RankGatherer:
    """Knows the parameters of all ranks and waits, for a while, for what they have of a step."""

    def __init__(self, post: Mailbox, world: int) -> None:
        self._post, self._world = post, world
        self._members = [_Member() for _ in range(world)]
        self._infos: dict[str, list[ParameterInfo]] = {}
        self._positions: dict[str, dict[str, int]] = {}
        self._layouts: dict[tuple[str, tuple[int, ...]], Layout] = {}
        self._new: list[tuple[str, list[ParameterInfo], int]] = []
        self._closing_since: float | None = None

    def open(self, first_steps: dict[str, int]) -> None:
        """Tell the others that the run is written here, and with which steps it begins."""
        self._post.announce("open", first_steps)

    def close(self) -> None:
        """Tell the others that nobody reads their letters any more."""
        try:
            self._post.announce("closed", True)
        except Exception as error:
            logger.debug("the others could not be told", exc_info=error)

    def hurry(self) -> None:
        """The training has ended: wait for nobody for long."""
        self._closing_since = self._closing_since or time.monotonic()

    def first_step(self, optimizer: str, step: int) -> None:
        """Tell the others with which step an optimizer begins that came later."""
        self._post.announce(f"first/{optimizer}", step)

    def known(self, optimizer: str, infos: Sequence[ParameterInfo]) -> None:
        """The parameters that the run has already, at the positions from 0."""
        self._infos[optimizer] = list(infos)
        self._positions[optimizer] = {info.name: at for at, info in enumerate(infos)}

    def join(self, rank: int, joined: Joined) -> None:
        """A rank has these parameters; those that the run did not have are `new_names`."""
        infos = self._infos.setdefault(joined.optimizer, [])
        positions = self._positions.setdefault(joined.optimizer, {})
        holding = self._members[rank].holdings.setdefault(joined.optimizer, Holding())
        begin = len(infos)
        for column, share in enumerate(joined.shares, joined.first):
            if share is None or column in holding.columns:
                continue
            if share.info.name not in positions:
                positions[share.info.name] = len(infos)
                infos.append(share.info)
            holding.columns.append(column)
            holding.positions.append(positions[share.info.name])
            holding.parts.append(share.part)
        if len(infos) > begin:
            self._new.append((joined.optimizer, infos[begin:], begin))
        self._layouts.clear()

    def new_names(self) -> list[tuple[str, list[ParameterInfo], int]]:
        """Optimizer, parameters and the position of the first, of all that joined since the last call."""
        new, self._new = self._new, []
        return new

    def whole(self, mine: LocalStep) -> Whole | None:
        """The step of which this is rank 0's part; None where a part that nobody else has did not come."""
        found = [mine, *(self._wait_for(rank, mine) for rank in range(1, self._world))]
        heard = tuple(rank for rank, step in enumerate(found) if step is not None)
        layout = self._layout(mine.optimizer, heard)
        unknown = any(step is None and not self._members[rank].heard for rank, step in enumerate(found))
        if not layout.is_whole or (unknown and layout.has_parts):
            return None
        there = [step for step in found if step is not None]
        steps = [widened(step, columns) for step, columns in zip(there, layout.columns, strict=True)]
        infos = tuple(self._infos[mine.optimizer])
        stats = tuple(name for name in mine.stats if all(name in step.stats for step in steps))
        columns, present, differing, differs_in = combine(layout, steps, stats, len(infos))
        return Whole(
            infos=infos,
            columns=columns,
            present=present,
            weights=_weights(layout, steps, len(infos)),
            ranks=RankStats(
                norm=self._spread(heard, [step.norm for step in steps]),
                nonfinite=self._spread(heard, [step.nonfinite for step in steps]),
                differing=self._spread(heard, differing),
                differs_in=self._spread(heard, differs_in),
                before_reduction=self._spread(heard, [float(step.before_reduction) for step in steps]),
            ),
            losses=[step.loss for step in steps if step.loss is not None],
        )

    def _spread(self, heard: Sequence[int], values: Sequence[float]) -> Floats:
        found = np.full(self._world, np.nan, np.float32)
        with np.errstate(over="ignore"):
            found[list(heard)] = values
        return found

    def _layout(self, optimizer: str, heard: tuple[int, ...]) -> Layout:
        key = (optimizer, heard)
        if key not in self._layouts:
            holdings = [member.holdings.get(optimizer, Holding()) for member in self._members]
            self._layouts[key] = Layout.of(holdings, heard)
        return self._layouts[key]

    def _wait_for(self, rank: int, mine: LocalStep) -> LocalStep | None:
        member, key = self._members[rank], (mine.optimizer, mine.number)
        deadline = None
        while True:
            self._read(rank)
            if key in member.steps:
                for old in [k for k in member.steps if k[0] == key[0] and k[1] < key[1]]:
                    del member.steps[old]
                member.silent = False
                return member.steps.pop(key)
            if member.ended or member.silent or member.latest.get(mine.optimizer, -1) > mine.number:
                return None
            now = time.monotonic()
            deadline = deadline or now + (PATIENCE if member.heard else FIRST_PATIENCE)
            if now > (deadline if self._closing_since is None else min(deadline, self._closing_since + LAST_PATIENCE)):
                self._give_up_on(rank, mine.number)
                return None
            time.sleep(PAUSE)

    def _give_up_on(self, rank: int, number: int) -> None:
        self._members[rank].silent = True
        logger.warning(
            "Rank %d is not heard since step %d of this recording: is gradwatch attached in every process?"
            " What only that rank knows is missing from there on (rank-silent)",
            rank,
            number,
        )

    def _read(self, rank: int) -> None:
        member = self._members[rank]
        while not member.ended and (letter := self._post.receive(rank)) is not None:
            member.heard = True
            for item in unpack(letter):
                if isinstance(item, Joined):
                    self.join(rank, item)
                elif isinstance(item, LocalStep):
                    member.steps[item.optimizer, item.number] = item
                    if len(member.steps) > MOST_KEPT:  # of an optimizer that rank 0 does not have
                        del member.steps[next(iter(member.steps))]
                    member.latest[item.optimizer] = item.number
                elif isinstance(item, Ended):
                    member.ended = True


def _weights(layout: Layout, steps: Sequence[LocalStep], parameters: int) -> WeightStats | None:
    tables = [step.weights for step in steps]
    if any(table is None for table in tables):
        return None
    rows = np.concatenate([t[:, c] for t, c in zip(tables, layout.columns, strict=True) if t is not None], axis=1)
    squares = np.where(np.isnan(rows) | ~layout.counts, 0.0, rows.astype(np.float64) ** 2)
    bad = [np.bincount(layout.positions, np.isnan(row) & layout.counts, parameters) > 0 for row in rows]
    sums = [np.sqrt(np.bincount(layout.positions, row, parameters)) for row in squares]
    norms = [np.where(b, np.nan, s).astype(np.float32) for b, s in zip(bad, sums, strict=True)]
    return WeightStats(weight_norm=norms[0], update_norm=norms[1])
