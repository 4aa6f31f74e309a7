"""Gradients too small to train anything: of a layer beside the others, or of the whole beside before."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.level import Level, usable
from gradwatch.record import Event, Floats, ParameterInfo, Severity, StepRecord

LAYER_SHARE = 1e-6
WHOLE_SHARE = 1e-3
LASTING = 100
SOLVED = 0.5


class Vanishing:
    """A layer, or the whole gradient, far below where it could still change the weights.

    A layer: its gradient relative to its weights stays under 1e-6 times that of the strongest
    layer for 100 steps. Only parameters with two or more dimensions count: the bias before a
    normalisation and the key bias of attention have gradients of rounding noise by construction.

    The whole: the median norm of the last 32 steps stays under 1e-3 times the highest such median
    for 100 steps. With a loss at hand it is a warning, unless the loss fell to less than half of
    what it was, for a task that is solved has small gradients too; without one it is information.
    """

    def __init__(self) -> None:
        self._level = Level(window=32, least=32)
        self._highest = 0.0
        self._low_steps = 0
        self._said = False
        self._first_losses: list[float] = []
        self._losses: deque[float] = deque(maxlen=32)
        self._weight_norm: Floats | None = None
        self._parameters: tuple[ParameterInfo, ...] = ()
        self._matrices = np.zeros(0, bool)
        self._sizes = np.zeros(0)
        self._layer_steps = np.zeros(0, int)
        self._said_layers: set[str] = set()

    def update(self, record: StepRecord) -> list[Event]:
        if not usable(record):
            return []
        return self._whole(record) + self._of_layers(record)

    def _whole(self, record: StepRecord) -> list[Event]:
        self._see_loss(record)
        self._level.add(record.total_norm)
        if not self._level.ready:
            return []
        now = self._level.value
        self._highest = max(self._highest, now)
        limit = WHOLE_SHARE * self._highest
        self._low_steps = self._low_steps + 1 if now < limit else 0
        self._said = self._said and self._low_steps > 0
        if self._low_steps < LASTING or self._said:
            return []
        self._said = True
        severity = self._severity()
        if severity is None:
            return []
        message = f"total norm {now:.2g}, once {self._highest:.2g}, for {LASTING} steps"
        return [_event(record, severity, None, now, limit, message)]

    def _see_loss(self, record: StepRecord) -> None:
        if record.loss is None or not math.isfinite(record.loss):
            return
        if len(self._first_losses) < 32:
            self._first_losses.append(record.loss)
        self._losses.append(record.loss)

    def _severity(self) -> Severity | None:
        if not self._losses:
            return "info"
        solved = np.median(self._losses) < SOLVED * np.median(self._first_losses)
        return None if solved else "warning"

    def _of_layers(self, record: StepRecord) -> list[Event]:
        layers = record.layers
        if layers is None:
            return []
        if record.weights is not None:
            self._weight_norm = record.weights.weight_norm
        strength = self._strength(record)
        strongest = float(np.nanmax(strength)) if np.any(strength > 0) else math.nan
        low = strength < LAYER_SHARE * strongest
        self._layer_steps = np.where(low, _grown(self._layer_steps, len(low)) + 1, 0)
        reached = [
            int(i)
            for i in np.flatnonzero(self._layer_steps == LASTING)
            if layers.parameters[i].name not in self._said_layers
        ]
        if not reached:
            return []
        self._said_layers.update(layers.parameters[i].name for i in reached)
        worst = min(reached, key=lambda i: strength[i])
        share = float(strength[worst] / strongest)
        others = f" (and {len(reached) - 1} more)" if len(reached) > 1 else ""
        name = layers.parameters[worst].name
        message = (
            f"gradient of {name}{others} is {share:.1g} of the strongest layer's,"
            f" relative to the weights, for {LASTING} steps"
        )
        return [_event(record, "warning", name, share, LAYER_SHARE, message)]

    def _strength(self, record: StepRecord) -> NDArray[np.float64]:
        """Gradient norm over weight norm, or per entry where no weight norm is known; NaN: leave out."""
        assert record.layers is not None
        self._see_parameters(record.layers.parameters)
        norm = record.layers.norm.astype(float)
        if self._weight_norm is not None and len(self._weight_norm) == len(norm):
            scale = self._weight_norm.astype(float)
        else:
            scale = self._sizes
        counts = self._matrices & (norm > 0) & (scale > 0)
        strength = np.full(len(norm), np.nan)
        np.divide(norm, scale, out=strength, where=counts)
        return strength

    def _see_parameters(self, parameters: tuple[ParameterInfo, ...]) -> None:
        """Work out what depends on the parameters alone once, not at every step."""
        if parameters is not self._parameters:
            self._parameters = parameters
            self._matrices = np.array([len(p.shape) >= 2 for p in parameters], bool)
            self._sizes = np.sqrt([float(p.numel) for p in parameters])


def _grown(counts: NDArray[np.int_], length: int) -> NDArray[np.int_]:
    return np.concatenate([counts, np.zeros(length - len(counts), int)])


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
