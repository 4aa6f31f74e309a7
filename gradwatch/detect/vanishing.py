"""Gradients too small to train anything: of one layer beside the others, or of the total compared with its past."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.changes import PresenceChanges
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import Level, ParameterShapes, in_a_row, is_usable, median
from gradwatch.record import Event, Floats, LayerStats, Severity, StepRecord, event_at
from gradwatch.text import number

WEAK_LAYER_FRACTION = 1e-6
"""A layer is weak below this fraction of the strongest layer's gradient, relative to the weights."""

FADED_LAYER_FRACTION = 1e-4
"""A layer has faded below this fraction of its own level."""

TOTAL_FRACTION = 1e-3
"""The total has vanished below this fraction of its level, or of the highest level."""

LASTING_STEPS, SUDDEN_LASTING_STEPS = 100, 50
IMPROVED_FRACTION = 0.1
LEVEL_DECAY = 0.02
"""Weight of the newest norm in the moving average of each parameter's logarithm."""

LOSS_STEPS = 32


class Vanishing:
    """A layer, or the total gradient, far below where it could still change the weights.

    A layer: its gradient relative to its weights stays under 1e-6 times that of the strongest layer for 100
    steps, or it falls under 1e-4 of its own level for 100 steps while the median layer does not. Only parameters
    with two or more dimensions count for the first: the bias before a normalisation and the key bias of
    attention have gradients of rounding noise by construction.

    The total, at once: the norm falls under 1e-3 of its level from one step to the next and stays there for 50
    steps, without a loss that fell to a tenth. The total, gradually: the median norm of 32 steps stays under
    1e-3 times the highest such median for 100 steps. Where the loss is known that is a warning unless the loss has
    improved by a tenth since the start, because a solved task has small gradients too; otherwise information.
    """

    def __init__(self) -> None:
        self._total = _VanishingTotal()
        self._layers = _VanishingLayers()

    def update(self, record: StepRecord) -> list[Event]:
        if not is_usable(record):
            return []
        return self._total.update(record) + self._layers.update(record)


class _VanishingTotal:
    """Finds a total norm that has vanished, gradually or within one step."""

    def __init__(self) -> None:
        self._median = Level(window=32, least=32)
        self._highest = 0.0
        self._low_steps = 0
        self._gradually = Episode()
        self._level = Level()
        self._loss_before = math.nan
        self._fallen_steps = 0
        self._at_once = Episode()
        self._first_losses: list[float] = []
        self._losses: deque[float] = deque(maxlen=LOSS_STEPS)
        self._changes = PresenceChanges()

    def update(self, record: StepRecord) -> list[Event]:
        if self._changes.update(record):
            self._level.restart()
            self._fallen_steps = 0
        if record.loss is not None and math.isfinite(record.loss):
            if len(self._first_losses) < LOSS_STEPS:
                self._first_losses.append(record.loss)
            self._losses.append(record.loss)
        return self._faded(record) + self._fallen(record)

    def _faded(self, record: StepRecord) -> list[Event]:
        self._median.add(record.total_norm)
        if not self._median.ready:
            return []
        now = self._median.value
        self._highest = max(self._highest, now)
        self._low_steps = self._low_steps + 1 if now < TOTAL_FRACTION * self._highest else 0
        if self._low_steps < LASTING_STEPS:
            return self._gradually.calm()
        if self._gradually.event is not None:
            return self._gradually.again(record.step)
        if self._losses and self._has_improved():
            return []
        severity: Severity = "warning" if self._losses else "info"
        message = f"total norm {number(now, 2)}, once {number(self._highest, 2)}, for {LASTING_STEPS} steps"
        return self._gradually.alarm(
            event_at(
                record,
                kind="vanishing",
                severity=severity,
                message=message,
                observed=now,
                limit=TOTAL_FRACTION * self._highest,
            )
        )

    def _fallen(self, record: StepRecord) -> list[Event]:
        limit = TOTAL_FRACTION * self._level.value if self._level.ready else 0.0
        if record.total_norm >= limit:
            self._level.add(record.total_norm)
            self._fallen_steps = 0
            return self._at_once.calm()
        if not self._fallen_steps:
            self._loss_before = median(self._losses) if self._losses else math.nan
        self._fallen_steps += 1
        if self._at_once.event is not None:
            return self._at_once.again(record.step)
        if self._fallen_steps < SUDDEN_LASTING_STEPS or self._is_solved() or self._gradually.event is not None:
            return []
        loss = ", while the loss did not" if self._losses else ""
        message = (
            f"the total norm fell from {number(self._level.value, 2)} to {number(record.total_norm, 2)} within one"
            f" step, for {SUDDEN_LASTING_STEPS} steps{loss}"
        )
        return self._at_once.alarm(
            event_at(
                record,
                kind="vanishing",
                severity="warning",
                message=message,
                observed=record.total_norm,
                limit=limit,
            )
        )

    def _is_solved(self) -> bool:
        """Whether the loss fell with the norm."""
        return bool(self._losses) and median(self._losses) < IMPROVED_FRACTION * self._loss_before

    def _has_improved(self) -> bool:
        first = median(self._first_losses)
        return first - median(self._losses) > IMPROVED_FRACTION * abs(first)


class _VanishingLayers:
    """Finds layers whose gradient is weak beside the others', or has faded."""

    def __init__(self) -> None:
        self._weight_norm: Floats | None = None
        self._shapes = ParameterShapes()
        self._weak_steps = np.zeros(0, int)
        self._faded_steps = np.zeros(0, int)
        self._log_level = np.zeros(0)
        self._steps_seen = 0
        self._reported: set[str] = set()

    def update(self, record: StepRecord) -> list[Event]:
        layers = record.layers
        if layers is None:
            return []
        if record.weights is not None:
            self._weight_norm = record.weights.weight_norm
        self._shapes.see(layers.parameters)
        norm = layers.norm.astype(float)
        strength = self._strength(norm)
        strongest = float(np.fmax.reduce(strength)) if len(strength) else math.nan
        strongest = strongest if strongest > 0 else math.nan
        self._weak_steps = in_a_row(self._weak_steps, strength < WEAK_LAYER_FRACTION * strongest)
        fall = self._see_fall(norm)
        return [
            *self._weak(record, layers, strength, strongest),
            *self._faded(record, layers, fall),
        ]

    def _weak(
        self, record: StepRecord, layers: LayerStats, strength: NDArray[np.float64], strongest: float
    ) -> list[Event]:
        reached = self._new(layers, self._weak_steps == LASTING_STEPS)
        if not reached:
            return []
        weakest = min(reached, key=lambda i: strength[i])
        name, observed = layers.parameters[weakest].name, float(strength[weakest] / strongest)
        message = (
            f"gradient of {name}{_others(reached)} is {number(observed, 1)} of the strongest layer's,"
            f" relative to the weights, for {LASTING_STEPS} steps"
        )
        return [_layer_event(record, name, observed, WEAK_LAYER_FRACTION, message)]

    def _faded(self, record: StepRecord, layers: LayerStats, fall: NDArray[np.float64]) -> list[Event]:
        reached = self._new(layers, self._faded_steps == LASTING_STEPS)
        if not reached:
            return []
        name, observed = layers.parameters[reached[-1]].name, math.exp(float(fall[reached[-1]]))
        message = (
            f"gradient of {name}{_others(reached)} fell to {number(observed, 1)} of its own level, for {LASTING_STEPS}"
            " steps"
        )
        return [_layer_event(record, name, observed, FADED_LAYER_FRACTION, message)]

    def _new(self, layers: LayerStats, reached: NDArray[np.bool_]) -> list[int]:
        """Positions of parameters that have not been reported yet; they count as reported from now on."""
        if not reached.any():
            return []
        names = layers.parameters
        new = [int(i) for i in np.flatnonzero(reached) if names[i].name not in self._reported]
        self._reported.update(names[i].name for i in new)
        return new

    def _see_fall(self, norm: NDArray[np.float64]) -> NDArray[np.float64]:
        """The logarithm of each norm over its level, a moving average that a faded layer does not enter."""
        with np.errstate(divide="ignore"):
            logs = np.log(norm)
        self._steps_seen += 1
        decay = max(LEVEL_DECAY, 1 / self._steps_seen)
        limit = math.log(FADED_LAYER_FRACTION)
        level = self._log_level
        if len(level) == len(logs):
            fall = logs - level
            if ((fall >= limit) & (fall < np.inf)).all():  # as at most steps: every norm is known, and none is low
                self._faded_steps = np.zeros(len(fall), int)
                self._log_level = level + decay * fall
                return fall
        logs[~np.isfinite(logs)] = np.nan
        if len(level) < len(logs):
            level = np.concatenate([level, np.full(len(logs) - len(level), np.nan)])
        level = np.where(np.isnan(level), logs, level)
        fall = logs - level
        is_low = faded = fall < limit
        if faded.any() and median(fall) < limit:
            faded = np.zeros(len(fall), bool)
        self._faded_steps = in_a_row(self._faded_steps, faded)
        self._log_level = np.where(is_low | np.isnan(fall), level, level + decay * fall)
        return fall

    def _strength(self, norm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gradient norm over weight norm, or per entry where no weight norm is known; NaN: not compared."""
        if self._weight_norm is not None and len(self._weight_norm) == len(norm):
            scale = self._weight_norm.astype(float)
        else:
            scale = np.sqrt(self._shapes.sizes)
        counts = self._shapes.matrices & (norm > 0) & (scale > 0)
        strength = np.full(len(norm), np.nan)
        np.divide(norm, scale, out=strength, where=counts)
        return strength


def _others(reached: list[int]) -> str:
    return f" (and {len(reached) - 1} more)" if len(reached) > 1 else ""


def _layer_event(record: StepRecord, name: str, observed: float, limit: float, message: str) -> Event:
    return event_at(
        record,
        kind="vanishing",
        severity="warning",
        message=message,
        parameter=name,
        observed=observed,
        limit=limit,
    )
