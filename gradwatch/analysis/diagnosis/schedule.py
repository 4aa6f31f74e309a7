"""Facts about the learning-rate schedule that explain a finding."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.diagnosis.facts import OptimizerFacts

LASTING_RAMP = 1.2  # times: a learning rate that rises by that much over the first steps is a warm-up
AT_THE_PEAK = 0.99  # of the largest learning rate
RESTART = 2.0  # times: a learning rate that had fallen and rises by as much begins anew


def end_of_warm_up(optimizer: OptimizerFacts) -> int | None:
    """The step at which the learning rate reaches its peak; None: it does not rise over the first steps."""
    rates = optimizer.frame["learning_rate"].to_numpy(float)
    known = np.isfinite(rates)
    if known.sum() <= 2:
        return None
    values, steps = rates[known], optimizer.steps[known]
    if not values.max() > LASTING_RAMP * values[0]:
        return None
    return int(steps[np.flatnonzero(values >= AT_THE_PEAK * values.max())[0]])


def full_rate_from_the_start(optimizer: OptimizerFacts) -> float | None:
    """The learning rate of the first step, if it rises no further; None: it does, or the record begins later."""
    rates = optimizer.frame["learning_rate"].to_numpy(float)
    if not len(rates) or optimizer.steps[0] != 0 or not rates[0] > 0 or end_of_warm_up(optimizer) is not None:
        return None
    return float(rates[0])


def restarts_after(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether the learning rate, which had fallen to less than half by a step, rises to twice that or more after it."""
    rates = optimizer.frame["learning_rate"].to_numpy(float)
    before, after = rates[(optimizer.steps <= step) & (rates > 0)], rates[(optimizer.steps > step) & (rates > 0)]
    if not len(before) or not len(after):
        return False
    return bool(min(before.max(), after.max()) > RESTART * before[-1])
