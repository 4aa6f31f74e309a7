"""Gradients smaller than the eps of an optimizer that divides by their size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.level import ParameterShapes, is_usable
from gradwatch.detect.optimizers import OptimizerTraits
from gradwatch.record import Event, LayerStats, StepRecord, event_at
from gradwatch.text import number
from gradwatch.text import share as percentage

LASTING_STEPS = 100
STARVED_FRACTION = 0.5
"""Fraction of the weights from which on it is reported."""


class EpsStarvation:
    """Half of the weights have gradients below the optimizer's eps, at each of 100 steps: information, once.

    Adam divides by sqrt(v) + eps. With gradients as small as eps its updates are half of what the learning
    rate says, and from there they shrink with the gradient (Wortsman et al. 2023, "Small-scale proxies",
    section 3.4). What is compared with eps is what the optimizer adds it to: the root mean square of a
    parameter's entries for Adam and its relatives, the norm of a matrix for Muon, whose iteration makes up for a norm
    down to a hundredth of its eps.

    >>> EpsStarvation(OptimizerTraits()).update(StepRecord(step=0))
    []
    """

    def __init__(self, traits: OptimizerTraits) -> None:
        self._traits = traits
        self._shapes = ParameterShapes()
        self._steps = 0
        self._reported = False

    def update(self, record: StepRecord) -> list[Event]:
        eps = self._traits.eps
        if eps is None or self._reported or record.layers is None or not is_usable(record):
            return []
        size = self._sizes(record.layers)
        numel = self._shapes.sizes[: len(size)]
        present = record.layers.present & (numel > 0)
        starved = present & (size * min(record.clip_coef, 1.0) < eps)
        fraction = float(numel[starved].sum() / max(numel[present].sum(), 1.0))
        self._steps = self._steps + 1 if fraction > STARVED_FRACTION else 0
        if self._steps < LASTING_STEPS:
            return []
        self._reported = True
        smallest = int(np.argmin(np.where(present, size, np.inf)))
        return [_event(record, fraction, eps, record.layers.parameters[smallest].name)]

    def _sizes(self, layers: LayerStats) -> NDArray[np.float64]:
        """The size of each gradient that the optimizer compares with eps."""
        self._shapes.see(layers.parameters)
        norm = layers.norm.astype(float)
        if self._traits.eps_rule == "per-matrix":
            return norm
        # One without entries counts for nothing.
        entry: NDArray[np.float64] = norm / np.sqrt(np.maximum(self._shapes.sizes[: len(norm)], 1.0))
        return entry


def _event(record: StepRecord, fraction: float, eps: float, parameter: str) -> Event:
    return event_at(
        record,
        kind="eps-starvation",
        severity="info",
        message=f"{percentage(fraction)} of the weights had gradients smaller than the optimizer's eps,"
        f" {number(eps, 6)}, for {LASTING_STEPS} steps",
        parameter=parameter,
        observed=fraction,
        limit=STARVED_FRACTION,
    )
