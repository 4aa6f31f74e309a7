"""Gradients too small to train anything: of a layer beside the others, or of the whole beside before."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.changes import Changes
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import Level, Parameters, in_a_row, usable
from gradwatch.record import Event, Floats, Severity, StepRecord

LAYER_SHARE = 1e-6
WHOLE_SHARE = 1e-3
FADED_SHARE = 1e-4
LASTING, SUDDEN_LASTING = 100, 50
IMPROVED = 0.1
DECAY = 0.02


class Vanishing:
    """A layer, or the whole gradient, far below where it could still change the weights.

    A layer: its gradient relative to its weights stays under 1e-6 times that of the strongest
    layer for 100 steps, or it falls under 1e-4 of its own level for 100 steps while the median
    layer does not. Only parameters with two or more dimensions count for the first: the bias
    before a normalisation and the key bias of attention have gradients of rounding noise by
    construction.

    The whole, at once: the norm falls under 1e-3 of its level from one step to the next and stays
    there for 50 steps, without a loss that fell to a tenth. The whole, by and by: the median norm
    of 32 steps stays under 1e-3 times the highest such median for 100 steps. With a loss at hand
    that is a warning unless the loss has improved by a tenth since the start, for a task that is
    solved has small gradients too; without one it is information.
    """

    def __init__(self) -> None:
        self._level = Level(window=32, least=32)
        self._before = Level()
        self._loss_before = math.nan
        self._highest = 0.0
        self._low_steps = self._fallen_steps = 0
        self._by_and_by, self._at_once = Episode(), Episode()
        self._first_losses: list[float] = []
        self._losses: deque[float] = deque(maxlen=32)
        self._weight_norm: Floats | None = None
        self._parameters = Parameters()
        self._changes = Changes()
        self._layer_steps = np.zeros(0, int)
        self._faded_steps = np.zeros(0, int)
        self._log_level = np.zeros(0)
        self._learnt = 0
        self._said_layers: set[str] = set()

    def update(self, record: StepRecord) -> list[Event]:
        if not usable(record):
            return []
        if self._changes.update(record):
            self._before.restart()
            self._fallen_steps = 0
        self._see_loss(record)
        return self._whole(record) + self._fallen(record) + self._of_layers(record)

    def _whole(self, record: StepRecord) -> list[Event]:
        self._level.add(record.total_norm)
        if not self._level.ready:
            return []
        now = self._level.value
        self._highest = max(self._highest, now)
        self._low_steps = self._low_steps + 1 if now < WHOLE_SHARE * self._highest else 0
        if self._low_steps < LASTING:
            return self._by_and_by.calm()
        if self._by_and_by.event is not None:
            return self._by_and_by.again(record.step)
        severity: Severity = "warning" if self._losses else "info"
        if self._losses and self._has_improved():
            return []
        message = f"total norm {now:.2g}, once {self._highest:.2g}, for {LASTING} steps"
        return self._by_and_by.alarm(_event(record, severity, None, now, WHOLE_SHARE * self._highest, message))

    def _fallen(self, record: StepRecord) -> list[Event]:
        limit = WHOLE_SHARE * self._before.value if self._before.ready else 0.0
        if record.total_norm >= limit:
            self._before.add(record.total_norm)
            self._fallen_steps = 0
            return self._at_once.calm()
        if not self._fallen_steps:
            self._loss_before = float(np.median(self._losses)) if self._losses else math.nan
        self._fallen_steps += 1
        if self._at_once.event is not None:
            return self._at_once.again(record.step)
        solved = bool(self._losses) and float(np.median(self._losses)) < IMPROVED * self._loss_before
        if self._fallen_steps < SUDDEN_LASTING or solved or self._by_and_by.event is not None:
            return []
        loss = ", while the loss did not" if self._losses else ""
        message = (
            f"the total norm fell from {self._before.value:.2g} to {record.total_norm:.2g} within one step,"
            f" for {SUDDEN_LASTING} steps{loss}"
        )
        return self._at_once.alarm(_event(record, "warning", None, record.total_norm, limit, message))

    def _see_loss(self, record: StepRecord) -> None:
        if record.loss is None or not math.isfinite(record.loss):
            return
        if len(self._first_losses) < 32:
            self._first_losses.append(record.loss)
        self._losses.append(record.loss)

    def _has_improved(self) -> bool:
        first = float(np.median(self._first_losses))
        return first - float(np.median(self._losses)) > IMPROVED * abs(first)

    def _of_layers(self, record: StepRecord) -> list[Event]:
        layers = record.layers
        if layers is None:
            return []
        if record.weights is not None:
            self._weight_norm = record.weights.weight_norm
        self._parameters.see(layers.parameters)
        strength = self._strength(layers.norm)
        strongest = float(np.nanmax(strength)) if np.any(strength > 0) else math.nan
        low = strength < LAYER_SHARE * strongest
        self._layer_steps = in_a_row(self._layer_steps, low)
        fall = self._see_fall(layers.norm)
        events = []
        reached = self._new(record, self._layer_steps == LASTING)
        if reached:
            worst = min(reached, key=lambda i: strength[i])
            share = float(strength[worst] / strongest)
            name = layers.parameters[worst].name
            message = (
                f"gradient of {name}{_others(reached)} is {share:.1g} of the strongest layer's,"
                f" relative to the weights, for {LASTING} steps"
            )
            events.append(_event(record, "warning", name, share, LAYER_SHARE, message))
        faded = self._new(record, self._faded_steps == LASTING)
        if faded:
            name, share = layers.parameters[faded[-1]].name, math.exp(float(fall[faded[-1]]))
            message = f"gradient of {name}{_others(faded)} fell to {share:.1g} of its own level, for {LASTING} steps"
            events.append(_event(record, "warning", name, share, FADED_SHARE, message))
        return events

    def _new(self, record: StepRecord, reached: NDArray[np.bool_]) -> list[int]:
        """Indices of those that nothing was said about yet; they count as said from now on."""
        assert record.layers is not None
        names = record.layers.parameters
        new = [int(i) for i in np.flatnonzero(reached) if names[i].name not in self._said_layers]
        self._said_layers.update(names[i].name for i in new)
        return new

    def _see_fall(self, norm: Floats) -> NDArray[np.float64]:
        """The logarithm of each norm over its level, a moving average that a faded layer does not enter."""
        with np.errstate(divide="ignore"):
            logs = np.log(norm.astype(float))
        known = np.isfinite(logs)
        level = np.concatenate([self._log_level, np.full(len(logs) - len(self._log_level), np.nan)])
        level = np.where(np.isnan(level) & known, logs, level)
        fall = np.where(known, logs - level, np.nan)
        faded = fall < math.log(FADED_SHARE)
        others = fall[known]
        if np.any(faded) and np.median(others) < math.log(FADED_SHARE):
            faded[:] = False
        self._faded_steps = in_a_row(self._faded_steps, faded)
        self._learnt += 1
        decay = max(DECAY, 1 / self._learnt)
        self._log_level = np.where(known & ~(fall < math.log(FADED_SHARE)), level + decay * fall, level)
        return fall

    def _strength(self, norm: Floats) -> NDArray[np.float64]:
        """Gradient norm over weight norm, or per entry where no weight norm is known; NaN: leave out."""
        if self._weight_norm is not None and len(self._weight_norm) == len(norm):
            scale = self._weight_norm.astype(float)
        else:
            scale = np.sqrt(self._parameters.sizes)
        counts = self._parameters.matrices & (norm > 0) & (scale > 0)
        strength = np.full(len(norm), np.nan)
        np.divide(norm.astype(float), scale, out=strength, where=counts)
        return strength


def _others(reached: list[int]) -> str:
    return f" (and {len(reached) - 1} more)" if len(reached) > 1 else ""


def _event(
    record: StepRecord, severity: Severity, parameter: str | None, observed: float, limit: float, message: str
) -> Event:
    return Event(
        step=record.step,
        kind="vanishing",
        severity=severity,
        parameter=parameter,
        observed=observed,
        limit=limit,
        message=message,
        optimizer=record.optimizer,
        attempt=record.attempt,
    )
