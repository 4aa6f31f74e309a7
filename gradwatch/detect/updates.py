"""Updates that jump, second moments that lag behind the gradient, and updates that move nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.changes import PresenceChanges
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, ParameterShapes, factor_text, is_usable
from gradwatch.record import Event, LayerStats, StepRecord, event_at

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

    >>> UpdateSpike().update(StepRecord(step=0))
    []
    """

    def __init__(self) -> None:
        self._level = Level()
        self._changes = PresenceChanges()
        self._episode = Episode()
        self._above_in_a_row = 0

    def update(self, record: StepRecord) -> list[Event]:
        size = _per_rate(record)
        if size is None or not is_usable(record):
            return self._episode.calm()
        if self._changes.update(record):
            self._level.restart()
        limit = self._level.limit(UPDATE_FACTOR, UPDATE_SIGMAS) if self._level.ready else math.inf
        if size <= limit:
            self._above_in_a_row = 0
            self._level.add(size)
            return self._episode.calm()
        event = self._event(record, size, limit)
        self._above_in_a_row += 1
        if self._above_in_a_row >= PATIENCE_STEPS:
            self._level.restart()
            self._above_in_a_row = 0
        return self._episode.alarm(event)

    def _event(self, record: StepRecord, size: float, limit: float) -> Event:
        assert record.update_norm is not None
        scale = record.update_norm / size
        parameter = _largest(record)
        return event_at(
            record,
            kind="update-spike",
            severity="info",
            message=f"the update is {factor_text(size / self._level.value)} its recent level"
            + (f", most of it in {parameter}" if parameter else ""),
            parameter=parameter,
            observed=record.update_norm,
            limit=limit * scale,
        )


def _per_rate(record: StepRecord) -> float | None:
    """The norm of the update over the learning rate; None where either is not known or zero."""
    rate = record.learning_rates[0] if record.learning_rates else 0.0
    if record.update_norm is None or not rate > 0 or not 0 < record.update_norm < math.inf:
        return None
    return record.update_norm / rate


def _largest(record: StepRecord) -> str | None:
    """The parameter with the largest update."""
    if record.updates is None or record.layers is None:
        return None
    return record.layers.parameters[int(np.argmax(np.nan_to_num(record.updates.update_norm, nan=-1.0)))].name


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
        size, gradient = _per_rate(record), _consumed(record)
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
            f" and the momentum holds it: the update is {factor_text(size / self._updates.value)} its level",
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
    A ratio counts if it is also far above the parameter's own level: of rare tokens it is always large.

    >>> StaleSecondMoment().update(StepRecord(step=0))
    []
    """

    def __init__(self) -> None:
        self._levels = LayerLevels()
        self._shapes = ParameterShapes()
        self._episode = Episode()

    def update(self, record: StepRecord) -> list[Event]:
        ratios = None if record.updates is None else record.updates.rms_ratio
        if ratios is None or record.layers is None or not is_usable(record):
            return self._episode.calm()
        self._shapes.see(record.layers.parameters)
        as_layers = replace(record, layers=LayerStats(parameters=record.layers.parameters, norm=ratios))
        self._levels.see(as_layers)
        excess = self._levels.excess(ratios, STALE_FACTOR, STALE_SIGMAS)
        counted = (ratios >= STALE_RATIO) & self._shapes.matrices[: len(ratios)]
        excess = np.where(counted, excess, -np.inf)
        if not len(excess) or not excess.max() > 0:
            self._levels.learn(as_layers)
            return self._episode.calm()
        self._levels.learn(as_layers)
        at = int(np.argmax(excess))
        name = record.layers.parameters[at].name
        return self._episode.alarm(
            event_at(
                record,
                kind="stale-second-moment",
                severity="info",
                message=f"the gradients of {name} have outgrown the optimizer's second moment: they are"
                f" {float(ratios[at]):.2g} times its root; updates are too large until it follows",
                parameter=name,
                observed=float(ratios[at]),
                limit=STALE_RATIO,
            )
        )


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
        why = ": the learning rate is 0" if rates and not any(rates) else ""
        return event_at(
            record,
            kind="nothing-moves",
            severity="warning",
            message=f"the updates of {STILL_STEPS} steps were zero although the gradients were not{why}",
            observed=0.0,
            limit=0.0,
        )

    def _few(self, record: StepRecord, share: float) -> Event:
        return event_at(
            record,
            kind="nothing-moves",
            severity="info",
            message=f"a step changes {share:.2%} of the entries of weights in low precision; smaller updates are"
            " rounded away",
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
