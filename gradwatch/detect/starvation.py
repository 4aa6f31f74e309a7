"""Gradients smaller than the eps of the optimizer that divides by their size."""

from __future__ import annotations

import numpy as np

from gradwatch.detect.level import Parameters, usable
from gradwatch.record import Event, StepRecord

LASTING = 100
SHARE = 0.5


class EpsStarvation:
    """Half of the weights, at each of 100 steps, with gradients of a root mean square under Adam's eps.

    Adam divides by sqrt(v) + eps: with gradients as small as eps its updates are half of what the
    learning rate says, and they shrink with the gradient from there (Wortsman et al. 2023,
    "Small-scale proxies", section 3.4). Information, once.

    >>> EpsStarvation(eps=None).update(StepRecord(step=0))
    []
    """

    def __init__(self, eps: float | None) -> None:
        self._eps = eps
        self._parameters = Parameters()
        self._steps = 0
        self._told = False

    def update(self, record: StepRecord) -> list[Event]:
        if not self._eps or self._told or record.layers is None or not usable(record):
            return []
        self._parameters.see(record.layers.parameters)
        sizes = self._parameters.sizes[: len(record.layers.norm)]
        coefficient = min(record.clip_coef, 1.0)
        starved = record.layers.norm * coefficient < self._eps * np.sqrt(sizes)
        present = record.layers.present
        share = float(sizes[starved & present].sum() / max(sizes[present].sum(), 1.0))
        self._steps = self._steps + 1 if share > SHARE else 0
        if self._steps < LASTING:
            return []
        self._told = True
        relative = np.where(present, record.layers.norm / np.sqrt(sizes), np.inf)
        least = int(np.argmin(relative))
        return [
            Event(
                step=record.step,
                kind="eps-starvation",
                severity="info",
                parameter=record.layers.parameters[least].name,
                observed=share,
                limit=SHARE,
                message=f"{share:.0%} of the weights had gradients smaller than eps = {self._eps:g} for {LASTING}"
                " steps: the optimizer's updates shrink; a smaller eps or a larger loss would let them grow",
                optimizer=record.optimizer,
                attempt=record.attempt,
            )
        ]
