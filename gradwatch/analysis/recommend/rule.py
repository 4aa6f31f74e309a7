"""A history -> a threshold. Numbers only: `gradwatch.analysis.recommend.wording` explains them.

Which rule applies depends on the history. The constants were chosen on the tasks that benchmarks/recommendation
calls seen, and are reported on other tasks. Optimizers whose update follows the size of the gradient (SGD) and
optimizers that divide by it (Adam) have little in common, so each kind has rules of its own.

For the first kind, a threshold limits how far one update can move the weights. Good thresholds of different tasks
agree on that limit, but not on a percentile of the norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from gradwatch.analysis.statistics.loss_levels import first_loss, uncertainty
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.progress import (
    MIN_LOSSES,
    NOTABLE_UPDATE_RATIO,
    drift,
    has_risen,
    is_noise,
    is_undone,
    spread,
)
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.tail import tail_index

MAX_UPDATE_RATIO = 0.02  # of the weights' norm: the most that one update may change
LARGE_UPDATE_RATIO = 0.04  # of the weights' norm, median: the learning rate is too high
MAX_WEIGHT_GROWTH = 4.0  # times: weights that grew more within the record diverged
HEAVY_TAIL_INDEX = 2.5  # below it single steps dominate
UNEVEN_P99_RATIO = 8.0  # 99th percentile over the median of the norms
RISING_DRIFT = 2.0  # times: above it the last third of the norms decides
MAX_DRIFT_UP, MAX_DRIFT_DOWN = 10.0, 30.0  # times: further than one threshold can cover
SPIKES_TO_CLIP_ALL = (
    6  # spikes: with this many in `STEPS_OF_SPIKES`, the advice for an adaptive optimizer is to clip every step
)
STEPS_OF_SPIKES = 2000  # steps
MIN_NORMS_OF_TAIL = 300  # norms
FACTOR_OF_A_SPIKE = 1.6  # times: the most that one spike in `STEPS_OF_SPIKES` lowers the threshold
EQUAL_WEIGHT_SHARE = 0.3  # of the median norm: of the grid in benchmarks/recommendation/MODERN.md the best for most
TAIL_RAMP = 2.3, 2.7  # tail indices about `HEAVY_TAIL_INDEX`: between them the advice goes over
UNEVEN_RAMP = 6.5, 9.5  # times, the same about `UNEVEN_P99_RATIO`
EQUAL_RATIO = 1.1  # times: numbers closer than that are not told apart
TRAVEL_NORMS = 1.5  # times the weights' norm: how far clipped updates may carry the weights within the record

Cause: TypeAlias = Literal["lost", "weights-grew", "large-updates", "heavy-tail", "outliers", "uneven"]
"""What makes a bound necessary."""

Basis: TypeAlias = Literal[
    "clip-every-step",  # an adaptive optimizer, a tenth of the 10th percentile
    "towards-every-step",  # an adaptive optimizer, between that and its 95th percentile: a few spikes
    "guard-p95",  # an adaptive optimizer
    "equal-weight",  # an optimizer whose updates have a fixed size, below nearly every norm
    "guard-p95-near-eps",  # the same, because lower thresholds would bring gradients near eps
    "twice-p99",
    "update-bound",
    "p75",
    "guard-large-updates",
    "guard-given-p90",
    "guard-update-bound",
    "noise",
    "norms-alone",
]
"""Which rule gave the threshold."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold, the range that the history supports, and the rule that gave them."""

    number: float
    low: float
    high: float
    basis: Basis
    cause: Cause | None = None
    clip: str | None = None  # a policy of gradwatch.clip, where one is named beside the threshold
    percentile: int | None = None  # of the norms, for "norms-alone"


def choose(history: OptimizerHistory, tail: float) -> Choice:
    """The threshold for a history with enough usable norms; ``tail`` is their tail index."""
    tail = tail_without_largest(history.every_norm, tail)
    if history.is_adaptive:
        return _for_adaptive(history, tail)
    bound = step_bound(history)
    if bound is None:
        return _by_norms_alone(history, tail)
    if tail < HEAVY_TAIL_INDEX and is_noise(history):
        return _noise(history, bound)
    cause = _cause(history, tail)
    if cause == "heavy-tail":
        return _towards(_bounding(history, bound, cause), _calm(history, bound), 1 - _ramp(tail, *TAIL_RAMP))
    if cause is not None:
        return _bounding(history, bound, cause)
    return _calm(history, bound)


def _towards(choice: Choice, calm: Choice, share: float) -> Choice:
    """A choice with the numbers of a calm run's, moved a share of the way to its own."""
    return replace(
        choice,
        number=_between(calm.number, choice.number, share),
        low=_between(calm.low, choice.low, share),
        high=_between(calm.high, choice.high, share),
    )


def _calm(history: OptimizerHistory, bound: float) -> Choice:
    """The threshold of a run in which nothing went wrong, moved down as far as many steps stand out."""
    guard, outliers = _guard(history, bound), _unevenness(spread(history.norms, 0.99))
    return _towards(_below_outliers(history, bound), guard, outliers) if outliers else guard


def _unevenness(ratio: float) -> float:
    """How far a 99th percentile that is ``ratio`` times the median makes norms uneven, from 0 to 1."""
    return _ramp(math.log(ratio), *(math.log(end) for end in UNEVEN_RAMP))


def _cause(history: OptimizerHistory, tail: float) -> Cause | None:
    """A fault because of which no recorded norm is a measure for an update."""
    start, end, ratio = history.weight_norm, history.last_weight_norm, history.update_ratio
    if is_undone(history) or history.lost_at is not None:
        return "lost"
    if start is not None and end is not None and end > MAX_WEIGHT_GROWTH * start:
        return "weights-grew"
    if ratio is not None and ratio > LARGE_UPDATE_RATIO:
        return "large-updates"
    return "heavy-tail" if tail < TAIL_RAMP[1] else None


def decisive(norms: Array) -> Array:
    """The norms that the advice is based on: all, or where they rise the last third, which a threshold will meet."""
    return np.array_split(norms, 3)[2] if drift(norms) > RISING_DRIFT else norms


def step_bound(history: OptimizerHistory) -> float | None:
    """The norm at which an SGD update changes `MAX_UPDATE_RATIO` of the weights; None where that is not known.

    With momentum, the accumulated update of one gradient counts: ``lr * norm / (1 - momentum)``.
    """
    if not history.follows_gradient or not history.learning_rate or history.weight_norm is None:
        return None
    return MAX_UPDATE_RATIO * weight_size(history) * (1 - history.momentum) / history.learning_rate


def weight_size(history: OptimizerHistory) -> float:
    """The geometric mean of the weights' norm at the start and where the loss was least.

    The first alone says little of weights that start near 0, the second little of weights that diverged.
    """
    assert history.weight_norm is not None
    return math.sqrt(history.weight_norm * weight_norm_at_best(history))


def weight_norm_at_best(history: OptimizerHistory) -> float:
    """The last sampled norm of the weights in the tenth with the least losses; the first if nothing was learnt."""
    losses, weights = history.losses, history.weights
    if len(losses) >= MIN_LOSSES:
        tenths = np.array_split(losses, 10)
        tenth_medians = history.loss_levels
        best = int(np.argmin(tenth_medians))
        if tenth_medians[best] < first_loss(losses) - uncertainty(tenths[best]):
            end = np.array_split(history.loss_steps, 10)[best][-1]
            weights = weights[weights.index <= max(end, weights.index[0])]
            return float(weights.iloc[-1])
    return float(weights.iloc[0])


# ---------------------------------------------------------- optimizers that divide by the gradient


def _for_adaptive(history: OptimizerHistory, tail: float) -> Choice:
    """Adam: clipping every step does not change the learning rate, it gives each step the same weight."""
    norms = decisive(history.norms)
    level, top = float(np.median(norms)), float(np.quantile(norms, 0.99))
    if history.has_fixed_size:
        return Choice(EQUAL_WEIGHT_SHARE * level, 0.1 * EQUAL_WEIGHT_SHARE * level, level, "equal-weight")
    lost = history.lost_at is not None or _went_wrong(history)
    upper, low = float(np.quantile(norms, 0.95)), 0.1 * float(np.quantile(norms, 0.1))
    uneven = max(1 - _ramp(tail, *TAIL_RAMP), _unevenness(top / level))
    trouble = 1.0 if lost else max(uneven, _trouble_of_spikes(history, upper, low))
    if not trouble or history.least_norm > level:
        basis: Basis = "guard-p95-near-eps" if trouble else "guard-p95"
        return Choice(upper, level, max(top, 10 * level), basis, clip=None if trouble else "ZClip()")
    # Threshold and range move by a part of the way, so that one step cannot turn the advice over.
    number = max(_between(upper, low, trouble), history.least_norm)
    unstable = lost or history.spikes > 0
    return Choice(
        number,
        max(min(_between(level, 0.1 * low, trouble), number), history.least_norm),
        max(_between(max(top, 10 * level), level, trouble), number),
        "clip-every-step" if trouble == 1.0 else "towards-every-step",
        "lost" if unstable else "uneven",
        clip=_policy(unstable, trouble),
    )


def tail_without_largest(norms: Array, otherwise: float) -> float:
    """The tail index of all norms but the largest, so that one step does not decide; ``otherwise`` for few norms."""
    return tail_index(np.delete(norms, int(np.argmax(norms))))[0] if len(norms) > MIN_NORMS_OF_TAIL else otherwise


def _policy(unstable: bool, trouble: float) -> str | None:
    """The policy of gradwatch.clip that did better than a fixed threshold in the benchmark (docs/policies.md)."""
    if trouble == 1.0:
        return "AutoClip(10)" if unstable else None
    return "ZClip()" if unstable or trouble < 0.5 else None


def _trouble_of_spikes(history: OptimizerHistory, upper: float, low: float) -> float:
    """How far spikes move the threshold from ``upper``, 0, to ``low``, 1.

    By their number among as many steps, for one in 20,000 steps says less than one in 500.
    """
    spikes = history.spikes / max(1.0, history.steps / STEPS_OF_SPIKES)
    of_one = 1 / SPIKES_TO_CLIP_ALL
    if upper > low:
        of_one = min(of_one, math.log(FACTOR_OF_A_SPIKE) / math.log(upper / low))
    return min(1.0, spikes * of_one)


def _ramp(value: float, begin: float, end: float) -> float:
    """0 up to ``begin``, 1 from ``end`` on, and a straight line between them.

    >>> [_ramp(value, 2.0, 3.0) for value in (1.0, 2.25, 9.0)]
    [0.0, 0.25, 1.0]
    """
    return min(1.0, max(0.0, (value - begin) / (end - begin)))


def _between(first: float, second: float, share: float) -> float:
    """A value between two others, by a share of the way on a logarithmic axis.

    >>> _between(1.0, 100.0, 0.5)
    10.0
    """
    return float(first ** (1 - share) * second**share)


def _went_wrong(history: OptimizerHistory) -> bool:
    """Whether the loss rose again, or did not fall under updates that are large enough to learn something."""
    if not is_undone(history):
        return False
    crawls = history.update_ratio is not None and history.update_ratio < NOTABLE_UPDATE_RATIO
    return history.ended_nonfinite or has_risen(history) or not crawls


# ------------------------------------------------------------ optimizers that follow the gradient


def _bounding(history: OptimizerHistory, bound: float, cause: Cause) -> Choice:
    """Bound a single update, or where that is far above every healthy norm twice the largest of these."""
    top = 2 * float(np.quantile(history.norms, 0.99))
    if bound > top:
        return Choice(top, 0.5 * top, bound, "twice-p99", cause)
    return Choice(bound, 0.5 * bound, 2 * bound, "update-bound", cause)


def _below_outliers(history: OptimizerHistory, bound: float) -> Choice:
    """Many steps stand out, for example from bad batches; too many for the tail index to tell."""
    upper = float(np.quantile(history.norms, 0.75))
    if bound <= upper:
        return _bounding(history, bound, "outliers")
    return Choice(upper, 0.5 * upper, 2 * upper, "p75", "outliers")


def _guard(history: OptimizerHistory, bound: float) -> Choice:
    """Nothing went wrong: leave steps alone unless they are large for these weights."""
    if unclipped_update_ratio(history) > NOTABLE_UPDATE_RATIO:
        return Choice(bound, 0.5 * bound, 2 * bound, "guard-large-updates")
    given = float(np.quantile(decisive(history.given), 0.9))
    # Where updates are small, momentum may be taken to add up independent steps.
    independent = bound * math.sqrt((1 + history.momentum) / (1 - history.momentum))
    number = max(independent, given)
    basis: Basis = "guard-given-p90" if independent < given else "guard-update-bound"
    return Choice(number, min(0.5 * number, given), 2 * number, basis)


def unclipped_update_ratio(history: OptimizerHistory) -> float:
    """The share of the weights that the median update would change without clipping."""
    return (history.update_ratio or 0.0) / history.median_clip_coef


def _noise(history: OptimizerHistory, bound: float) -> Choice:
    """Single steps dominate and the loss stands still: as low as still lets the weights travel."""
    assert history.learning_rate is not None
    assert history.last_weight_norm is not None
    reach = TRAVEL_NORMS * history.last_weight_norm * (1 - history.momentum) / (history.learning_rate * history.steps)
    number = min(max(reach, 0.1 * float(np.quantile(history.norms, 0.1))), bound)
    return Choice(number, 0.5 * number, max(bound, 2 * number), "noise")


def _by_norms_alone(history: OptimizerHistory, tail: float) -> Choice:
    """Neither the learning rate nor the weights are known; percentiles say far less."""
    norms = decisive(history.norms)
    cause: Cause | None = None
    percentile = 90
    if is_undone(history) or history.lost_at is not None:
        percentile, cause = 25, "lost"
    elif tail < HEAVY_TAIL_INDEX or history.spikes or spread(norms, 0.99) > UNEVEN_P99_RATIO:
        percentile, cause = 75, "outliers"
    number = float(np.quantile(norms, percentile / 100))
    high = 2 * max(number, float(np.quantile(norms, 0.95)))
    return Choice(number, 0.5 * number, high, "norms-alone", cause, percentile=percentile)
