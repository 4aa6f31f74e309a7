"""What the loop changed by itself, so that the norm had to move."""

from __future__ import annotations

from collections import deque

import numpy as np

from gradwatch.record import StepRecord

APART = 100


class Changes:
    """Whether other parameters than before have a gradient: layers were frozen or thawed.

    The total is then another total. Said at most once in `APART` steps: in a model that trains
    other parameters at every step the change is no news.
    """

    def __init__(self) -> None:
        self._present = -1
        self._since = 0

    def update(self, record: StepRecord) -> bool:
        if record.layers is None:
            return False
        present = int(np.count_nonzero(record.layers.present))
        changed = self._present not in (-1, present)
        self._present = present
        self._since += 1
        if not changed or self._since <= APART:
            return False
        self._since = 0
        return True


class Rates:
    """Whether the learning rate was changed by a factor of two or more within the last `APART` steps."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=APART)

    def update(self, record: StepRecord) -> None:
        self._rates.append(record.learning_rates[0] if record.learning_rates else 0.0)

    @property
    def changed(self) -> bool:
        return bool(self._rates) and max(self._rates) >= 2 * min(self._rates) and max(self._rates) > 0
