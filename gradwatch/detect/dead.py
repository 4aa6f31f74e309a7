"""Parameters whose gradient is exactly zero, or is never there, and layers most of whose units get none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.level import in_a_row
from gradwatch.record import Event, Floats, LayerStats, ParameterInfo, Severity, StepRecord

LASTING = 50
UNITS_SHARE, MOST_UNITS, UNITS_LASTING = 0.5, 0.55, 100


class Dead:
    """A gradient of exact zeros for 50 steps in a row, or none at all in the first 50 steps.

    Exact zeros are a warning: the parameter gets a gradient and nothing in it. Not so a bias whose
    weight moves: what reaches it may cancel, as under a hinge loss. A parameter that never gets a
    gradient is information: it may be frozen, or unused on purpose. None is not zero. All
    parameters that reach 50 at the same step are one event, and each is named once; the event is
    over when the first of them moves again.

    A layer's units: an entry of a bias whose gradient is exactly zero belongs to a unit that was
    inactive for the whole batch. At least half of a layer's units at each of 100 steps is
    information, 55 in 100 a warning. Only a bias beside a weight of as many rows counts, whose own zeros confirm it.
    """

    def __init__(self) -> None:
        self._zero_steps = np.zeros(0, int)
        self._absent_steps = np.zeros(0, int)
        self._said: set[str] = set()
        self._seen = 0
        self._layers = _Layers()
        self._dead_units_steps = np.zeros(0, int)
        self._least_dead = np.zeros(0)
        self._open: list[tuple[Event, int]] = []

    def update(self, record: StepRecord) -> list[Event]:
        layers = record.layers
        if layers is None or record.skipped:
            return []
        self._seen += 1
        present = layers.present
        self._layers.see(layers.parameters)
        zero = present & (layers.norm == 0)
        zero[self._layers.biases] &= ~(layers.norm[self._layers.weights] > 0)
        self._zero_steps = in_a_row(self._zero_steps, zero)
        self._absent_steps = in_a_row(self._absent_steps, ~present)
        never = self._absent_steps == LASTING if self._seen == LASTING else np.zeros(len(present), bool)
        return [
            *self._over(record, zero),
            *self._event(record, layers, self._zero_steps == LASTING, "warning"),
            *self._event(record, layers, never, "info"),
            *self._units(record, layers),
        ]

    def _over(self, record: StepRecord, zero: NDArray[np.bool_]) -> list[Event]:
        over = [(event, index) for event, index in self._open if not zero[index]]
        self._open = [pair for pair in self._open if pair not in over]
        return [replace(event, until=record.step - 1) for event, _ in over]

    def _event(
        self, record: StepRecord, layers: LayerStats, reached: NDArray[np.bool_], severity: Severity
    ) -> list[Event]:
        indices = [int(i) for i in np.flatnonzero(reached) if layers.parameters[i].name not in self._said]
        names = [layers.parameters[i].name for i in indices]
        if not names:
            return []
        self._said.update(names)
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        if len(names) == len(layers.parameters):
            who = "every parameter"
        what = f"is exactly zero for {LASTING} steps" if severity == "warning" else "was never there"
        event = Event(
            step=record.step,
            kind="dead",
            severity=severity,
            parameter=names[0],
            observed=float(len(names)),
            limit=0.0,
            message=f"the gradient of {who} {what}",
            optimizer=record.optimizer,
            attempt=record.attempt,
        )
        if severity == "warning":
            self._open.append((event, indices[0]))
        return [event]

    def _units(self, record: StepRecord, layers: LayerStats) -> list[Event]:
        if layers.zeros is None:
            return []
        share = self._layers.share_of_dead_units(layers.zeros)
        if np.isnan(share).all():
            return []  # zeros are sampled on this route, and this is no such step
        length = len(share)
        self._dead_units_steps = in_a_row(self._dead_units_steps, share >= UNITS_SHARE)
        least = np.concatenate([self._least_dead, np.ones(length - len(self._least_dead))])
        self._least_dead = np.where(self._dead_units_steps > 0, np.fmin(least, share), 1.0)
        events = []
        for index in np.flatnonzero(self._dead_units_steps == UNITS_LASTING):
            bias = layers.parameters[self._layers.biases[index]]
            dead = round(float(self._least_dead[index]) * bias.numel)
            layer = bias.name.rpartition(".")[0]
            if bias.name in self._said or dead == bias.numel:
                continue  # all of them: that is the gradient of exact zeros
            self._said.add(bias.name)
            events.append(
                Event(
                    step=record.step,
                    kind="dead",
                    severity="warning" if self._least_dead[index] >= MOST_UNITS else "info",
                    parameter=bias.name,
                    observed=float(self._least_dead[index]),
                    limit=UNITS_SHARE,
                    message=f"at least {dead} of the {bias.numel} units of {layer or 'the layer'} got no gradient"
                    f" at each of {UNITS_LASTING} steps",
                    optimizer=record.optimizer,
                    attempt=record.attempt,
                )
            )
        return events


class _Layers:
    """Which parameters are a bias beside a weight of as many rows, worked out once."""

    def __init__(self) -> None:
        self._parameters: tuple[ParameterInfo, ...] = ()
        self.biases = np.zeros(0, int)
        self.weights = np.zeros(0, int)
        self._units = np.zeros(0)
        self._fan_in = np.zeros(0)

    def see(self, parameters: tuple[ParameterInfo, ...]) -> None:
        if parameters is self._parameters:
            return
        self._parameters = parameters
        place = {parameter.name: index for index, parameter in enumerate(parameters)}
        pairs = []
        for index, parameter in enumerate(parameters):
            module, _, own = parameter.name.rpartition(".")
            weight = place.get(f"{module}.weight" if module else "weight")
            if own == "bias" and weight is not None:
                shape = parameters[weight].shape
                if parameter.shape == shape[:1]:
                    pairs.append((index, weight, parameter.numel, parameters[weight].numel / parameter.numel))
        table = np.array(pairs, float).reshape(len(pairs), 4)
        self.biases, self.weights = table[:, 0].astype(int), table[:, 1].astype(int)
        self._units, self._fan_in = table[:, 2], table[:, 3]

    def share_of_dead_units(self, zeros: Floats) -> NDArray[np.float64]:
        """Of each layer; 0 where the zeros of the weight don't fit, NaN where nothing is known."""
        dead = zeros[self.biases].astype(float)
        fits = zeros[self.weights] >= dead * self._fan_in
        return np.where(np.isnan(dead), np.nan, np.where(fits & (self._units > 1), dead / self._units, 0.0))
