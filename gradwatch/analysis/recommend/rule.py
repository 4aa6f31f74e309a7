"""A history -> a threshold.

Which rule is used depends on what the history shows; the numbers were chosen on the tasks of
benchmarks/recommendation that are called seen there, and are reported on others. Thresholds that
follow the size of a gradient (SGD and its like) and those of optimizers that divide by it (Adam and
its like) have little in common, so they are apart.

For the first kind a threshold is a bound on how far one update may move the weights, and that, not
a percentile of the norms, is what good thresholds of different tasks have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradwatch.analysis.recommend.history import Array, History
from gradwatch.analysis.recommend.tail import detrended

UPDATE = 0.02  # of the weights' norm: what one update may change
LARGE_UPDATE = 0.04  # of the weights' norm in the median step: a learning rate that is too high
GROWN = 4.0  # times: weights that grew so much in the part recorded were thrown about
HEAVY = 2.5  # tail index below which single steps dominate
UNEVEN = 8.0  # the 99th percentile over the median
WIDE = 2.0  # the 90th percentile over the median: not a few steps stand out but many
NOTICED = 0.005  # of the weights' norm in the median step: an update that is more than a crawl
DRIFT_SAID, DRIFT_UP, DRIFT_DOWN = 2.0, 10.0, 30.0
UNDONE = 0.15  # of the progress of the loss
FLAT = 0.05  # of the progress of the loss
LEFT = 0.05  # of the loss at the start: below that it is not noise that is left
LEAST_LOSSES = 100
SAME = 1.1  # times: numbers that need no telling apart
TRAVEL = 1.5  # times the weights' norm: how far clipped updates may carry in so many steps as were recorded


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold, the range that is supported, and why."""

    number: float
    low: float
    high: float
    why: str
    clip: str | None = None  # a policy of gradwatch.clip that does better than a threshold that stays


def choose(history: History, tail: float) -> Choice:
    """The threshold for the norms of a history that has enough of them."""
    if history.is_scale_free:
        return _dividing(history, tail)
    bound = step_bound(history)
    if bound is None:
        return _by_norms_alone(history, tail)
    if tail < HEAVY and is_noise(history):
        return _noise(history, bound)
    fault = _fault(history, tail)
    if fault is not None:
        return _bounding(history, bound, fault)
    if spread(history.norms, 0.99) > UNEVEN:
        return _below_outliers(history, bound)
    return _guard(history, bound)


def _fault(history: History, tail: float) -> str | None:
    """What went wrong, or will: nothing that was recorded is then a measure for an update."""
    start, end, ratio = history.weight_norm, history.last_weight_norm, history.update_ratio
    if is_undone(history) or history.lost_at is not None:
        return "the training was lost, or its loss did not stay down"
    if start is not None and end is not None and end > GROWN * start:
        return f"the weights grew from a norm of {start:.3g} to {end:.3g}"
    if ratio is not None and ratio > LARGE_UPDATE:
        return f"a step changes the weights by {ratio:.1%} in the middle"
    return "single steps are far larger than the others" if tail < HEAVY else None


def deciding(norms: Array) -> Array:
    """All, or under a rise the last third: those are what a threshold will meet."""
    return np.array_split(norms, 3)[2] if drift(norms) > DRIFT_SAID else norms


def step_bound(history: History) -> float | None:
    """The norm at which an update of SGD is `UPDATE` of the weights; with momentum the sum of its echoes."""
    if history.is_scale_free or not history.learning_rate or history.weight_norm is None:
        return None
    return UPDATE * _weight_size(history) * (1 - history.momentum) / history.learning_rate


def _weight_size(history: History) -> float:
    """The weights' norm at the start and where the loss was least, their geometric mean.

    The first alone says little of weights that start near nothing, the other of weights that were thrown about.
    """
    assert history.weight_norm is not None
    return math.sqrt(history.weight_norm * _weight_norm_at_best(history))


def _weight_norm_at_best(history: History) -> float:
    """As sampled last in the tenth of the losses that is least; where nothing was learnt the first."""
    losses, weights = history.losses(), history.weights
    if len(losses) >= LEAST_LOSSES:
        tenths = np.array_split(losses, 10)
        middles = _middles(tenths)
        best = int(np.argmin(middles))
        if middles[best] < _start(losses) - _uncertainty(tenths[best]):
            end = np.array_split(history.loss_steps(), 10)[best][-1]
            weights = weights[weights.index <= max(end, weights.index[0])]
            return float(weights.iloc[-1])
    return float(weights.iloc[0])


# --------------------------------------------------------------------- where the optimizer divides


def _dividing(history: History, tail: float) -> Choice:
    """Adam and its like: to clip each step changes no learning rate, it gives each step the same weight."""
    norms = deciding(history.norms)
    level, top = float(np.median(norms)), float(np.quantile(norms, 0.99))
    wrong = history.unstable or is_undone(history)
    uneven = tail < HEAVY or top > UNEVEN * level
    if (wrong or uneven) and history.least_norm <= level:
        low = 0.1 * float(np.quantile(norms, 0.1))
        cause = "something went wrong" if wrong else "norms differ much from step to step"
        why = (
            f"a tenth of the 10th percentile: {cause}; {history.optimizer_class} divides by the size of its gradients,"
            " so to clip every step gives each the same weight and leaves the learning rate as it is; any threshold"
            " that is always exceeded does the same"
        )
        if wrong:
            why += ". On the tasks measured one that follows the norms, as AutoClip's does, did better"
        return Choice(
            max(low, history.least_norm),
            max(0.1 * low, history.least_norm),
            level,
            why,
            "AutoClip(10)" if wrong else None,
        )
    upper = float(np.quantile(norms, 0.95))
    return Choice(
        upper,
        level,
        max(top, 10 * level),
        "the 95th percentile of the healthy norms: "
        + (
            "to clip every step, which would give each the same weight, would bring gradients near eps"
            if wrong or uneven
            else "nothing went wrong, so it is a guard that holds back the five largest steps of a hundred. On the"
            " tasks measured one that follows the norms, as ZClip's does, did better than any that stays"
        ),
        None if wrong or uneven else "ZClip()",
    )


# ---------------------------------------------------------------------- where it follows the gradient


def _bounding(history: History, bound: float, why: str) -> Choice:
    """Bound what one update may change; far above every healthy norm there is nothing to let pass."""
    top = 2 * float(np.quantile(history.norms, 0.99))
    if bound > top:
        return Choice(top, 0.5 * top, bound, f"{why}; it is twice the 99th percentile of the healthy norms")
    return Choice(
        bound,
        0.5 * bound,
        2 * bound,
        f"{why}; {_kept(history)}, whatever norms were recorded",
    )


def _kept(history: History) -> str:
    """What a threshold at the bound does."""
    start, best = history.weight_norm, _weight_norm_at_best(history)
    assert start is not None
    kept = f"at learning rate {history.learning_rate:g} it keeps every update within {UPDATE:.0%} of the weights' norm"
    if 1 / SAME < best / start < SAME:
        return f"{kept} of {start:.3g}"
    return (
        f"{kept} of {_weight_size(history):.3g}, which lies between that at the start, {start:.3g}, and that where"
        f" the loss was least, {best:.3g}"
    )


def _below_outliers(history: History, bound: float) -> Choice:
    """Many steps stand out, from bad batches say, too many for the tail to tell."""
    seen = f"more than one step in a hundred is at least {UNEVEN:g} times as large as those around it"
    upper = float(np.quantile(history.norms, 0.75))
    if bound <= upper:
        return _bounding(history, bound, seen)
    return Choice(
        upper, 0.5 * upper, 2 * upper, f"the 75th percentile of the healthy norms: {seen}, and this is below them"
    )


def _guard(history: History, bound: float) -> Choice:
    """Nothing went wrong: a guard that leaves steps alone unless they are large ones for these weights."""
    passed = f"{history.spikes} spikes passed without harm" if history.spikes else "nothing went wrong"
    coef = history.middle_coef
    ratio = (history.update_ratio or 0.0) / coef
    if ratio > NOTICED:
        changes = "changes the weights" if coef > 1 / SAME else "would change the weights without clipping"
        return Choice(
            bound,
            0.5 * bound,
            2 * bound,
            f"{passed}, but a step {changes} by {ratio:.1%} in the middle, which is much: {_kept(history)}",
        )
    given = float(np.quantile(deciding(history.given), 0.9))
    # where updates are small the echoes of momentum may add up as independent steps do
    alone = bound * math.sqrt((1 + history.momentum) / (1 - history.momentum))
    number = max(alone, given)
    if alone < given:
        why = "the 90th percentile of the norms that the optimizer was given"
    else:
        echoes = ", the echoes of momentum added up as those of independent steps"
        why = _kept(history) + (echoes if history.momentum else "")
    return Choice(number, min(0.5 * number, given), 2 * number, f"{passed}, so it is a guard: {why}")


def _noise(history: History, bound: float) -> Choice:
    """Single steps dominate and the loss stands still: as low as lets the weights still go where they have to."""
    assert history.learning_rate is not None
    assert history.last_weight_norm is not None
    reach = TRAVEL * history.last_weight_norm * (1 - history.momentum) / (history.learning_rate * history.steps)
    number = min(max(reach, 0.1 * float(np.quantile(history.norms, 0.1))), bound)
    return Choice(
        number,
        0.5 * number,
        max(bound, 2 * number),
        "the loss makes no more progress and single steps dominate its gradient, so what is left is noise: a low"
        f" threshold averages it out, and updates can still carry the weights {TRAVEL:g} times their norm within"
        " as many steps as were recorded",
    )


def _by_norms_alone(history: History, tail: float) -> Choice:
    """Neither learning rate nor weights are known; percentiles say far less."""
    norms = deciding(history.norms)
    if is_undone(history) or history.lost_at is not None:
        share, why = 0.25, "low enough to hold what went wrong"
    elif tail < HEAVY or history.spikes or spread(norms, 0.99) > UNEVEN:
        share, why = 0.75, "single steps are far larger than the others, and this is below them"
    else:
        share, why = 0.9, "nothing went wrong, so it is a guard that holds back the largest steps"
    number = float(np.quantile(norms, share))
    return Choice(
        number,
        0.5 * number,
        2 * max(number, float(np.quantile(norms, 0.95))),
        f"the {share * 100:.0f}th percentile of the healthy norms, {why}. What a threshold should be depends on the"
        " learning rate and the size of the weights, which this history does not hold: `gradwatch.attach` records"
        " both",
    )


# ------------------------------------------------------------------------------- what a history shows


def is_noise(history: History) -> bool:
    """Whether the loss stands still, well above nothing, under steps large enough to scatter the weights."""
    if not is_flat(history) or history.lost_at is not None or history.ended_nonfinite:
        return False
    losses = history.losses()
    return (
        history.last_weight_norm is not None
        and (history.update_ratio or 0.0) > NOTICED
        and spread(history.norms, 0.9) > WIDE
        and float(np.median(np.array_split(losses, 3)[2])) > LEFT * _start(losses)
    )


def spread(norms: Array, share: float) -> float:
    """A percentile of the norms over those around them."""
    return float(np.exp(np.quantile(detrended(norms), share)))


def is_undone(history: History) -> bool:
    """Whether the training was lost, or its loss has come back up by a part of what it had fallen."""
    if history.ended_nonfinite:
        return True
    losses = history.losses()
    if len(losses) < LEAST_LOSSES:
        return history.lost_at is not None
    tenths = np.array_split(losses, 10)
    middles = _middles(tenths)
    start, best, end = _start(losses), min(middles), middles[-1]
    doubt = _uncertainty(tenths[-1]) + _uncertainty(tenths[int(np.argmin(middles))])
    if best > start - doubt or float(np.median(middles)) > start:
        return True  # nothing was learnt, or less than nothing
    return end - best > max(UNDONE * (start - best), doubt)


def is_flat(history: History) -> bool:
    """Whether the loss made no progress in the last third, as far as it had fallen before and can be told."""
    losses = history.losses()
    if len(losses) < LEAST_LOSSES:
        return False
    thirds = np.array_split(losses, 3)
    middles = _middles(thirds)
    start = _start(losses)
    return middles[1] - middles[2] < max(FLAT * abs(start - middles[2]), _uncertainty(thirds[2]))


def _middles(parts: Sequence[Array]) -> list[float]:
    return [float(np.median(part)) for part in parts]


def _start(losses: Array) -> float:
    """Where the loss began; a fast training has left it within ten steps."""
    return max(float(np.median(losses[:3])), float(np.median(losses[:10])))


def _uncertainty(losses: Array) -> float:
    """Three standard errors of a median, from the quartiles, as of normal ones."""
    low, high = np.quantile(losses, [0.25, 0.75])
    return float(3 * 1.2533 * (high - low) / 1.349 / math.sqrt(len(losses)))


def drift(norms: Array) -> float:
    """The median of the last third over that of the first."""
    thirds = np.array_split(np.log(norms), 3)
    return float(np.exp(np.median(thirds[2]) - np.median(thirds[0])))
