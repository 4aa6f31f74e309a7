"""Facts about the learning-rate schedule that explain a finding."""

from __future__ import annotations

import itertools

import numpy as np

from gradwatch.analysis.diagnosis.facts import OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Quantity
from gradwatch.text import number

LASTING_RAMP = 1.2  # times: a learning rate that rises by that much over the first steps is a warm-up
AT_THE_PEAK = 0.99  # of the largest learning rate
RESTART = 2.0  # times: a learning rate that had fallen and rises by as much begins anew
HIGH_RATE, LOW_RATE = 0.5, 0.25  # of the highest learning rate: at and between the peaks of a cyclic one
FIRST_STEPS = 100  # a spike by then, at the full learning rate, may be for want of a warm-up
WARMS_ITSELF_UP = frozenset({"RAdam"})  # optimizers whose first updates are made smaller for want of an average
FULL_RATE = "learning_rate_from_the_start"  # evidence of spikes that a missing warm-up may have caused
WARM_UP = "warm the learning rate up over the first steps"


def end_of_warm_up(optimizer: OptimizerFacts) -> int | None:
    """The step at which the learning rate reaches its peak; None: it does not rise over the first steps."""
    rates = optimizer.frame["learning_rate"].to_numpy(float)
    known = np.isfinite(rates)
    if known.sum() <= 2:
        return None
    values, steps = rates[known], optimizer.steps[known]
    if not values.max() > LASTING_RAMP * max(values[0], 0.0):
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


def peaks_of_rate(optimizer: OptimizerFacts) -> list[int]:
    """The steps at which a learning rate that rises and falls again and again is highest, in order.

    A peak reaches half of the highest rate after the rate was at a quarter of it.
    """
    rates = np.nan_to_num(optimizer.frame["learning_rate"].to_numpy(float))
    if not len(rates) or not rates.max() > 0:
        return []
    is_high, is_low = rates >= HIGH_RATE * rates.max(), rates <= LOW_RATE * rates.max()
    places = np.flatnonzero(is_high | is_low)
    begins = places[1:][is_high[places[1:]] & is_low[places[:-1]]].tolist()
    pairs = itertools.pairwise([*begins, len(rates)])
    return [int(optimizer.steps[begin + int(np.argmax(rates[begin:end]))]) for begin, end in pairs]


def rate_without_warm_up(optimizer: OptimizerFacts, step: int) -> float | None:
    """The learning rate that one of the first steps had already, if Adam or its like has no warm-up; else None."""
    averages = optimizer.history.is_adaptive and not optimizer.history.has_fixed_size
    if step > FIRST_STEPS or not averages or optimizer.class_name in WARMS_ITSELF_UP:
        return None
    return full_rate_from_the_start(optimizer)


def evidence_of_rate(rate: float | None) -> dict[str, Quantity]:
    """The evidence of a missing warm-up; nothing without one."""
    return {} if rate is None else {FULL_RATE: Quantity(rate, "weight per update, from the first step on")}


def no_warm_up(optimizer: OptimizerFacts, rate: float) -> str:
    """The missing warm-up as a cause."""
    return (
        f"no warm-up: the learning rate is {number(rate, 6)} from the first step on, while the averages of"
        f" {optimizer.class_name} rest on few gradients"
    )
