"""Updates that jump, second moments that lag behind the gradient, and updates that move nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.changes import PresenceChanges
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, ParameterShapes, is_usable
from gradwatch.record import Event, Floats, LayerStats, ParameterInfo, StepRecord, event_at, total
from gradwatch.text import factor_text, number
from gradwatch.text import share as percentage

UPDATE_FACTOR, UPDATE_SIGMAS = 2.0, 5.0
"""An update has jumped at this many times its level, or these robust deviations above it; whichever is higher."""

PATIENCE_STEPS = 100
"""Recorded steps above the level in a row after which the new level is believed."""

STALE_RATIO, STALE_FACTOR, STALE_SIGMAS = 2.0, 1.5, 5.0
"""A second moment lags behind at this RMS ratio, if that is this many times the parameter's own level and these robust
deviations above it."""

FEW_MOVED, FEW_SAMPLES = 0.01, 3
"""Share of the entries below which next to nothing moves, and the samples in a row at which it is reported."""

SPIKE_FACTOR = 3.0
"""A gradient is a spike that momentum may hold at this many times its level."""

FORGOTTEN_STEPS = 3
"""Steps with a usual update after which the momentum has forgotten a spike."""

STILL_STEPS = 100
"""Recorded steps in a row with an update of zero, from which on it is reported."""

LOW_PRECISION = frozenset({"bfloat16", "float16"})


class UpdateSpike:
    """The update is far larger than those before it, the learning rate left out: information.

    Spikes of the loss are often led by a spike of the update, because the weights have to move before the loss
    can rise. The update is that which the optimizer computed, divided by the learning rate, so that a schedule
    is no jump. It is compared with the last 128 healthy ones, by their median and by how they scatter above it.
    Where the updates of all parameters are read at some steps only, those of the sentinels are compared with their own
    level at every step.

    >>> UpdateSpike().update(StepRecord(step=0))
    []
    """

    def __init__(self) -> None:
        self._all, self._few = _Jumps(), _Jumps()
        self._sentinels = _SentinelUpdates()
        self._changes = PresenceChanges()
        self._episode = Episode()

    def update(self, record: StepRecord) -> list[Event]:
        if self._sentinels.changed(record):
            self._few.restart()
        norms = (record.update_norm, self._sentinels.norm(record))
        sizes = [_over_rate(norm, record) for norm in norms]
        if sizes == [None, None] or not is_usable(record):
            return self._episode.calm()
        if self._changes.update(record):
            self._all.restart()
            self._few.restart()
        events = [
            self._event(record, whose, norm, excess)
            for whose, norm, excess in (
                ("the update is", norms[0], self._all.excess(sizes[0])),
                ("the update of the first and the last layers is", norms[1], self._few.excess(sizes[1])),
            )
            if excess is not None
        ]
        return self._episode.alarm(events[0]) if events else self._episode.calm()

    def _event(self, record: StepRecord, whose: str, norm: float | None, excess: tuple[float, float]) -> Event:
        assert norm is not None
        times, times_limit = excess
        parameter = _largest(record)
        return event_at(
            record,
            kind="update-spike",
            severity="info",
            message=f"{whose} {factor_text(times)} its recent level"
            + (f", most of it in {parameter}" if parameter else ""),
            parameter=parameter,
            observed=norm,
            limit=norm / times_limit,
        )


class _Jumps:
    """The level of a size, and how far above it a size jumps."""

    def __init__(self) -> None:
        self._level = Level()
        self._above_in_a_row = 0

    def restart(self) -> None:
        self._level.restart()
        self._above_in_a_row = 0

    def excess(self, size: float | None) -> tuple[float, float] | None:
        """How many times its level and how many times its limit a size is, if it is above that; else it is learned."""
        if size is None:
            return None
        limit = self._level.limit(UPDATE_FACTOR, UPDATE_SIGMAS) if self._level.ready else math.inf
        if size <= limit:
            self._above_in_a_row = 0
            self._level.add(size)
            return None
        found = size / self._level.value, size / limit
        self._above_in_a_row += 1
        if self._above_in_a_row >= PATIENCE_STEPS:
            self.restart()
        return found


class _SentinelUpdates:
    """The updates of the parameters that are read at every step, also where those of all are read.

    Attributes:
        positions: of the sentinels, ascending.
    """

    def __init__(self) -> None:
        self.positions = np.zeros(0, np.int64)

    def changed(self, record: StepRecord) -> bool:
        """Take in a record; return whether other parameters are sentinels now."""
        if record.sentinels is None:
            return False
        positions, before = record.sentinels.position.astype(np.int64), self.positions
        self.positions = positions
        return not np.array_equal(positions, before)

    def of(self, record: StepRecord, stat: str) -> Floats | None:
        """One of `gradwatch.record.UPDATE_STATS` of each sentinel; None if there are none or it was not read."""
        if record.sentinels is not None:
            found: Floats | None = getattr(record.sentinels, stat)
            return found
        every = None if record.updates is None else getattr(record.updates, stat)
        if every is None or not len(self.positions) or self.positions[-1] >= len(every):
            return None
        return np.asarray(every[self.positions])

    def norm(self, record: StepRecord) -> float | None:
        """The norm of the update of all sentinels."""
        norms = self.of(record, "update_norm")
        return None if norms is None else total(norms[~np.isnan(norms)].astype(float))


def _over_rate(norm: float | None, record: StepRecord) -> float | None:
    """The norm of an update over the learning rate; None where either is not known or zero."""
    rate = record.learning_rates[0] if record.learning_rates else 0.0
    if norm is None or not rate > 0 or not 0 < norm < math.inf:
        return None
    return norm / rate


def _largest(record: StepRecord) -> str | None:
    """The parameter with the largest update of those that were read."""
    if record.layers is None:
        return None
    parameters = record.layers.parameters
    if record.updates is not None:
        return parameters[int(np.argmax(np.nan_to_num(record.updates.update_norm, nan=-1.0)))].name
    if record.sentinels is None:
        return None
    largest = int(np.argmax(np.nan_to_num(record.sentinels.update_norm, nan=-1.0)))
    return parameters[int(record.sentinels.position[largest])].name


class HeldSpike:
    """Momentum still holds a spike of the gradient after the gradient itself is back: information.

    A part of a spike stays in the optimizer's momentum and moves the weights at the steps after it, by a factor
    that falls with each step. The event begins at the first step whose gradient is usual again while the update is
    not, and ends with the last such update, so it tells how many steps it took to forget the spike. The gradient is
    taken as clipping left it: what was clipped never reached the momentum.

    >>> HeldSpike().update(StepRecord(step=0))
    []
    """

    def __init__(self) -> None:
        self._gradients, self._updates = Level(), Level()
        self._changes = PresenceChanges()
        self._episode = Episode(quiet_steps=FORGOTTEN_STEPS)
        self._spiked_at: int | None = None
        self._times = 1.0  # how far the spike stood above the level

    def update(self, record: StepRecord) -> list[Event]:
        size, gradient = _over_rate(record.update_norm, record), _consumed(record)
        if size is None or gradient is None or not is_usable(record):
            return self._episode.calm()
        if self._changes.update(record):
            self._gradients.restart()
            self._updates.restart()
            self._spiked_at = None
        if not (self._gradients.ready and self._updates.ready):
            self._gradients.add(gradient)
            self._updates.add(size)
            return self._episode.calm()
        if gradient > self._gradients.limit(SPIKE_FACTOR, UPDATE_SIGMAS):
            self._spiked_at, self._times = record.step, gradient / self._gradients.value
            return self._episode.calm()
        self._gradients.add(gradient)
        limit = self._updates.limit(UPDATE_FACTOR, UPDATE_SIGMAS)
        if size <= limit:
            self._spiked_at = None
            self._updates.add(size)
            return self._episode.calm()
        if self._spiked_at is None or record.step - self._spiked_at > PATIENCE_STEPS:
            self._updates.add(size)  # it is large for another reason, or this is the new level
            return self._episode.calm()
        return self._episode.alarm(self._event(record, size, limit))

    def _event(self, record: StepRecord, size: float, limit: float) -> Event:
        assert record.update_norm is not None
        return event_at(
            record,
            kind="held-spike",
            severity="info",
            message=f"the gradient of step {self._spiked_at} was {factor_text(self._times)} its level; it is back,"
            f" while the update is {factor_text(size / self._updates.value)} its level",
            observed=record.update_norm,
            limit=limit * record.update_norm / size,
        )


def _consumed(record: StepRecord) -> float | None:
    """The norm of the gradient after clipping; None where it is not known or 0."""
    left = record.total_norm * min(record.clip_coef, 1.0)
    return left if 0 < left < math.inf else None


class StaleSecondMoment:
    """Gradients of a matrix have outgrown the optimizer's second moment: information.

    Adam divides by the square root of a slow average of squared gradients. When gradients grow faster than it
    follows, the ratio RMS_t = sqrt(mean(g^2 / v)) rises and updates become too large. It rose 1 to 8 steps
    before the loss in the runs of Wortsman et al. 2023 (arXiv:2304.13013, section 3), first in the embedding.
    A ratio counts if it is also far above the parameter's own level: of rare tokens it is always large. Sentinels
    are judged at every step, all parameters where their updates were read.

    >>> StaleSecondMoment().update(StepRecord(step=0))
    []
    """

    def __init__(self) -> None:
        self._all, self._few = LayerLevels(), LayerLevels()
        self._sentinels = _SentinelUpdates()
        self._shapes = ParameterShapes()
        self._episode = Episode()

    def update(self, record: StepRecord) -> list[Event]:
        if self._sentinels.changed(record):
            self._few = LayerLevels()
        if record.layers is None or not is_usable(record):
            return self._episode.calm()
        parameters = record.layers.parameters
        self._shapes.see(parameters)
        every = None if record.updates is None else record.updates.rms_ratio
        few = self._sentinels.of(record, "rms_ratio")
        found = []
        if every is not None:
            found.append(_stalest(self._all, parameters, every, self._shapes.matrices[: len(every)]))
        if few is not None:
            at = self._sentinels.positions
            chosen = tuple(parameters[position] for position in at.tolist())
            found.append(_stalest(self._few, chosen, few, self._shapes.matrices[at]))
        stale = max((one for one in found if one is not None), default=None)
        return self._episode.calm() if stale is None else self._episode.alarm(self._event(record, *stale))

    def _event(self, record: StepRecord, ratio: float, name: str) -> Event:
        return event_at(
            record,
            kind="stale-second-moment",
            severity="info",
            message=f"the gradients of {name} are {number(ratio, 2)} times the root of the optimizer's second moment",
            parameter=name,
            observed=ratio,
            limit=STALE_RATIO,
        )


def _stalest(
    levels: LayerLevels,
    parameters: tuple[ParameterInfo, ...],
    ratios: Floats,
    matrices: NDArray[np.bool_],
) -> tuple[float, str] | None:
    """The ratio and name of the matrix furthest above its limit, if there is one; the levels learn the ratios."""
    as_layers = LayerStats(parameters=parameters, norm=ratios)
    levels.see(as_layers)
    excess = levels.excess(ratios, STALE_FACTOR, STALE_SIGMAS)
    levels.learn(as_layers)
    excess = np.where((ratios >= STALE_RATIO) & matrices, excess, -np.inf)
    if not len(excess) or not excess.max() > 0:
        return None
    at = int(np.argmax(excess))
    return float(ratios[at]), parameters[at].name


class NothingMoves:
    """The gradients are not zero, and the weights stay as they are.

    A warning where nothing at all moves at `STILL_STEPS` recorded updates in a row, for example with a learning
    rate of 0. Information where weights of low precision keep all but `FEW_MOVED` of their entries at
    `FEW_SAMPLES` samples in a row: in bfloat16 an update below 1/256 of a weight is rounded away.

    >>> NothingMoves().update(StepRecord(step=0))
    []
    """

    def __init__(self) -> None:
        self._shapes = ParameterShapes()
        self._still_steps = 0
        self._samples = 0
        self._reported: list[str] = []

    def update(self, record: StepRecord) -> list[Event]:
        if record.layers is None or not is_usable(record):
            return []
        events = []
        if record.update_norm is not None:
            self._still_steps = self._still_steps + 1 if record.update_norm == 0 else 0
            if self._still_steps >= STILL_STEPS and "warning" not in self._reported:
                self._reported.append("warning")
                events.append(self._still(record))
        share = self._moved_share(record)
        if share is not None:
            self._samples = self._samples + 1 if share < FEW_MOVED else 0
            if self._samples >= FEW_SAMPLES and "info" not in self._reported:
                self._reported.append("info")
                events.append(self._few(record, share))
        return events

    def _still(self, record: StepRecord) -> Event:
        rates = record.learning_rates
        rate = ", at a learning rate of 0" if rates and not any(rates) else ""
        return event_at(
            record,
            kind="nothing-moves",
            severity="warning",
            message=f"the updates of {STILL_STEPS} steps were zero although the gradients were not{rate}",
            observed=0.0,
            limit=0.0,
        )

    def _few(self, record: StepRecord, share: float) -> Event:
        return event_at(
            record,
            kind="nothing-moves",
            severity="info",
            message=f"a step changes {percentage(share)} of the entries of weights in low precision",
            observed=share,
            limit=FEW_MOVED,
        )

    def _moved_share(self, record: StepRecord) -> float | None:
        """The share of the entries in low precision with a gradient that moved; None where it was not sampled."""
        if record.weights is None or record.weights.moved is None or record.layers is None:
            return None
        self._shapes.see(record.layers.parameters)
        moved = record.weights.moved.astype(float)
        length = min(len(moved), len(record.layers.norm))
        low = np.array([info.dtype in LOW_PRECISION for info in record.layers.parameters[:length]], bool)
        counted: NDArray[np.bool_] = low & (record.layers.norm[:length] > 0) & ~np.isnan(moved[:length])
        if not counted.any():
            return None
        return float(np.average(moved[:length][counted], weights=self._shapes.sizes[:length][counted]))
