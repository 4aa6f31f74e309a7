"""Parameters whose gradient is exactly zero or always absent, and layers most of whose units get none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.level import in_a_row
from gradwatch.record import Event, Floats, LayerStats, ParameterInfo, Severity, StepRecord, event_at

LASTING_STEPS = 50
DEAD_UNITS_FRACTION, MOST_UNITS_FRACTION, UNITS_LASTING_STEPS = 0.5, 0.55, 100
"""Fractions of a layer's units that are information and a warning, and for how many steps they last."""


class Dead:
    """A gradient of exact zeros for 50 steps in a row, or none at all in the first 50 steps.

    Exact zeros are a warning: the parameter gets a gradient that holds nothing. Not so for a bias whose weight
    moves: what reaches the bias may cancel, as under a hinge loss. A parameter that never gets a gradient is
    information: it may be frozen, or unused on purpose. None is not zero. A parameter without entries is left out.
    All parameters that reach 50 at the same step are one event, and each is named once. The event is over when
    the first of them moves again.

    A layer's units: an entry of a bias whose gradient is exactly zero belongs to a unit that was inactive for
    the whole batch. Half of a layer's units at each of 100 steps is information, 55 of 100 a warning. Only a
    bias beside a weight of as many rows counts, and the weight's own zeros must confirm it.
    """

    def __init__(self) -> None:
        self._zero_steps = np.zeros(0, int)
        self._absent_steps = np.zeros(0, int)
        self._reported: set[str] = set()
        self._steps_seen = 0
        self._layers = _BiasedLayers()
        self._units = _DeadUnits(self._layers, self._reported)
        self._open: list[tuple[Event, int]] = []  # with the position of the first parameter

    def update(self, record: StepRecord) -> list[Event]:
        layers = record.layers
        if layers is None or record.skipped:
            return []
        self._steps_seen += 1
        present = layers.present
        self._layers.see(layers.parameters)
        zero = present & (layers.norm == 0) & self._layers.with_entries
        if len(self._layers.biases):
            zero[self._layers.biases] &= ~(layers.norm[self._layers.weights] > 0)
        self._zero_steps = in_a_row(self._zero_steps, zero)
        self._absent_steps = in_a_row(self._absent_steps, ~present & self._layers.with_entries)
        return [
            *self._over(record, zero),
            *self._event(record, layers, self._zero_steps == LASTING_STEPS, "warning"),
            *self._never(record, layers),
            *self._units.events(record, layers),
        ]

    def _never(self, record: StepRecord, layers: LayerStats) -> list[Event]:
        if self._steps_seen != LASTING_STEPS:
            return []
        return self._event(record, layers, self._absent_steps == LASTING_STEPS, "info")

    def _over(self, record: StepRecord, zero: NDArray[np.bool_]) -> list[Event]:
        if not self._open:
            return []
        over = [(event, index) for event, index in self._open if not zero[index]]
        self._open = [pair for pair in self._open if pair not in over]
        return [replace(event, until=record.step - 1) for event, _ in over]

    def _event(
        self, record: StepRecord, layers: LayerStats, reached: NDArray[np.bool_], severity: Severity
    ) -> list[Event]:
        if not reached.any():
            return []
        indices = [int(i) for i in np.flatnonzero(reached) if layers.parameters[i].name not in self._reported]
        names = [layers.parameters[i].name for i in indices]
        if not names:
            return []
        self._reported.update(names)
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        if len(names) == len(layers.parameters):
            who = "every parameter"
        what = f"is exactly zero for {LASTING_STEPS} steps" if severity == "warning" else "was never there"
        event = event_at(
            record,
            kind="dead",
            severity=severity,
            message=f"the gradient of {who} {what}",
            parameter=names[0],
            observed=float(len(names)),
            limit=0.0,
        )
        if severity == "warning":
            self._open.append((event, indices[0]))
        return [event]


class _DeadUnits:
    """Finds layers most of whose units get no gradient."""

    def __init__(self, layers: _BiasedLayers, reported: set[str]) -> None:
        self._layers = layers
        self._reported = reported
        self._steps = np.zeros(0, int)
        self._least = np.zeros(0)  # the smallest fraction of dead units in these steps

    def events(self, record: StepRecord, layers: LayerStats) -> list[Event]:
        if layers.zeros is None or not len(self._layers.biases):
            return []
        fraction = self._layers.fraction_of_dead_units(layers.zeros)
        if np.isnan(fraction).all():
            return []  # zeros are sampled here, and not at this step
        self._steps = in_a_row(self._steps, fraction >= DEAD_UNITS_FRACTION)
        least = np.concatenate([self._least, np.ones(len(fraction) - len(self._least))])
        self._least = np.where(self._steps > 0, np.fmin(least, fraction), 1.0)
        if not (self._steps == UNITS_LASTING_STEPS).any():
            return []
        reached = [int(index) for index in np.flatnonzero(self._steps == UNITS_LASTING_STEPS)]
        return [event for index in reached for event in self._event(record, layers, index)]

    def _event(self, record: StepRecord, layers: LayerStats, index: int) -> list[Event]:
        bias = layers.parameters[self._layers.biases[index]]
        least = float(self._least[index])
        dead = round(least * bias.numel)
        if bias.name in self._reported or dead == bias.numel:
            return []  # all of them: that is a gradient of exact zeros
        self._reported.add(bias.name)
        layer = bias.name.rpartition(".")[0]
        return [
            event_at(
                record,
                kind="dead",
                severity="warning" if least >= MOST_UNITS_FRACTION else "info",
                message=f"at least {dead} of the {bias.numel} units of {layer or 'the layer'} got no gradient"
                f" at each of {UNITS_LASTING_STEPS} steps",
                parameter=bias.name,
                observed=least,
                limit=DEAD_UNITS_FRACTION,
            )
        ]


class _BiasedLayers:
    """Which parameters have entries, and which are a bias beside a weight of as many rows, computed once."""

    def __init__(self) -> None:
        self._parameters: tuple[ParameterInfo, ...] = ()
        self.biases = np.zeros(0, int)
        self.weights = np.zeros(0, int)
        self.with_entries = np.zeros(0, bool)
        self._units = np.zeros(0)
        self._fan_in = np.zeros(0)

    def see(self, parameters: tuple[ParameterInfo, ...]) -> None:
        if parameters is self._parameters:
            return
        self._parameters = parameters
        self.with_entries = np.array([parameter.numel > 0 for parameter in parameters], bool)
        place = {parameter.name: index for index, parameter in enumerate(parameters)}
        pairs = []
        for index, parameter in enumerate(parameters):
            module, _, own = parameter.name.rpartition(".")
            weight = place.get(f"{module}.weight" if module else "weight")
            if own == "bias" and weight is not None:
                shape = parameters[weight].shape
                if parameter.shape == shape[:1] and parameter.numel:
                    pairs.append((index, weight, parameter.numel, parameters[weight].numel / parameter.numel))
        table = np.array(pairs, float).reshape(len(pairs), 4)
        self.biases, self.weights = table[:, 0].astype(int), table[:, 1].astype(int)
        self._units, self._fan_in = table[:, 2], table[:, 3]

    def fraction_of_dead_units(self, zeros: Floats) -> NDArray[np.float64]:
        """The fraction of each layer's units; 0 where the weight's zeros don't fit, NaN where it is not known."""
        dead = zeros[self.biases].astype(float)
        fits = zeros[self.weights] >= dead * self._fan_in
        return np.where(np.isnan(dead), np.nan, np.where(fits & (self._units > 1), dead / self._units, 0.0))
