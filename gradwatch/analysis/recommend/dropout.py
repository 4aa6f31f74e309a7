"""How much of the scatter of the norms may be dropout's: named where it explains most of it, which is seldom."""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.recovery import robust_deviation

LARGE_SHARE = 0.5  # of the units: less made norms scatter by 2 % in a small network (docs/policies.md)
SCATTER = 0.1  # from step to step: with all data in a batch, 0.5 made 3.5 % and 0.9 made 5.6 %; batches make more


def scatter_of_dropout(history: OptimizerHistory, largest: str) -> list[str]:
    """A sentence about dropout if norms scatter no more than it explains; ``largest``: the largest share it drops."""
    if not largest or float(largest) < LARGE_SHARE or len(history.norms) < 2:
        return []
    scatter = robust_deviation(np.diff(np.log(history.norms))) / math.sqrt(2)
    if not 0 < scatter < SCATTER:
        return []
    return [
        f"dropout: norms scatter by {scatter:.1%} from step to step. The model drops up to {largest} of its units,"
        " others at each step, which makes some percent even where each batch holds all data. No threshold removes it"
    ]
