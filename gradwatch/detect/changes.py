"""Deliberate changes by the loop that are bound to move the norm."""

from __future__ import annotations

from collections import deque

import numpy as np

from gradwatch.record import StepRecord

APART_STEPS = 100
"""Changes are reported at most once in this many steps, and explain what happens in as many."""


class PresenceChanges:
    """Tells when another number of parameters has a gradient: layers were frozen or thawed.

    The total norm is then a norm of other parameters. Reported at most once in `APART_STEPS` steps: in a
    model that trains other parameters at every step, a change is no news.
    """

    def __init__(self) -> None:
        self._present = -1
        self._steps_since = 0

    def update(self, record: StepRecord) -> bool:
        if record.layers is None:
            return False
        present = int(np.count_nonzero(record.layers.present))
        changed = self._present not in (-1, present)
        self._present = present
        self._steps_since += 1
        if not changed or self._steps_since <= APART_STEPS:
            return False
        self._steps_since = 0
        return True


class RateChanges:
    """Tells whether the learning rate changed by a factor of two or more within the last `APART_STEPS` steps."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=APART_STEPS)

    def update(self, record: StepRecord) -> None:
        if record.learning_rates:  # an imported history may lack it at some steps, where it is not 0
            self._rates.append(record.learning_rates[0])

    @property
    def changed(self) -> bool:
        return bool(self._rates) and max(self._rates) >= 2 * min(self._rates) and max(self._rates) > 0

    @property
    def raised(self) -> bool:
        """Whether it now stands at twice or more what it was at some step of these; a decay does not count."""
        return bool(self._rates) and self._rates[-1] >= 2 * min(self._rates) and self._rates[-1] > 0
