"""Parameters whose gradient is exactly zero, or is never there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Event, LayerStats, Severity, StepRecord

LASTING = 50


class Dead:
    """A gradient of exact zeros for 50 steps in a row, or none at all in the first 50 steps.

    Exact zeros are a warning: the parameter gets a gradient and nothing in it. A parameter that
    never gets one is information: it may be frozen, or unused on purpose. None is not zero. All
    parameters that reach 50 at the same step are one event, and each is named once.
    """

    def __init__(self) -> None:
        self._zero_steps = np.zeros(0, int)
        self._absent_steps = np.zeros(0, int)
        self._said: set[str] = set()
        self._seen = 0

    def update(self, record: StepRecord) -> list[Event]:
        layers = record.layers
        if layers is None or record.skipped:
            return []
        self._seen += 1
        present = layers.present
        self._zero_steps = self._count(self._zero_steps, present & (layers.norm == 0))
        self._absent_steps = self._count(self._absent_steps, ~present)
        never = self._absent_steps == LASTING if self._seen == LASTING else np.zeros(len(present), bool)
        return [
            *self._event(record, layers, self._zero_steps == LASTING, "warning"),
            *self._event(record, layers, never, "info"),
        ]

    @staticmethod
    def _count(counts: NDArray[np.int_], now: NDArray[np.bool_]) -> NDArray[np.int_]:
        grown = np.concatenate([counts, np.zeros(len(now) - len(counts), int)])
        return np.where(now, grown + 1, 0)

    def _event(
        self, record: StepRecord, layers: LayerStats, reached: NDArray[np.bool_], severity: Severity
    ) -> list[Event]:
        names = [layers.parameters[i].name for i in np.flatnonzero(reached)]
        names = [name for name in names if name not in self._said]
        if not names:
            return []
        self._said.update(names)
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        if len(names) == len(layers.parameters):
            who = "every parameter"
        what = f"is exactly zero for {LASTING} steps" if severity == "warning" else "was never there"
        return [
            Event(
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
        ]
