"""A history -> a threshold.

Which rule is used depends on what the history shows; each was chosen on the tuning tasks of
benchmarks/recommendation and is reported on others. Thresholds that follow the size of a gradient
(SGD and its like) and those of optimizers that divide by it (Adam and its like) have little in
common, so they are apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradwatch.detect.spike import NOTED
from gradwatch.recommend.advice import Policy
from gradwatch.recommend.history import Array, History

FACTOR, SIGMAS = NOTED

HEAVY = 2.5  # tail index below which single steps dominate
CALM = 3.5  # above which they do not
UNEVEN = 8.0  # the 99th percentile over the median
DRIFT_SAID, DRIFT_UP, DRIFT_DOWN = 2.0, 10.0, 30.0
UNDONE = 0.15  # of the progress of the loss
FLAT = 0.05  # of the progress of the loss
LARGE_UPDATE = 0.04  # of the weights' norm in the median step: a learning rate that is too high
LEAST_LOSSES = 100
LEAST_NORMS = 30
STEP = 0.025  # of the weights' norm: the longest update where a learning rate was too high
TRAVEL = 1.2  # times the weights' norm: how far clipped updates may carry in so many steps as were recorded


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold, the range that is supported, and why."""

    number: float
    low: float
    high: float
    why: str
    policy: Policy = "norm"


def choose(history: History, tail: float) -> Choice:
    """The threshold for the norms of a history that has enough of them."""
    norms = deciding(history.norms)
    if history.is_scale_free:
        return _dividing(history, norms, tail)
    if is_undone(history):
        return _bounding(history, norms, "the training was lost, or its loss did not stay down")
    if tail < HEAVY and is_flat(history):
        return _noise(history, norms)
    if history.update_ratio is not None and history.update_ratio > LARGE_UPDATE:
        return _bounding(history, norms, f"a step changes the weights by {history.update_ratio:.1%} in the middle")
    if tail < HEAVY:
        return _heavy(norms)
    if history.unstable:
        upper = float(np.quantile(norms, 0.75))
        return Choice(
            upper,
            float(np.median(norms)),
            2 * float(np.quantile(norms, 0.95)),
            "the 75th percentile of the healthy norms, low enough to hold what went wrong",
        )
    top = float(np.quantile(norms, 0.95))
    return Choice(
        top,
        float(np.quantile(norms, 0.75)),
        10 * float(np.median(norms)),
        "the 95th percentile of the healthy norms: nothing went wrong, so it is a guard that holds back the five"
        " largest steps of a hundred",
        "adaptive" if drift(history.norms) > DRIFT_SAID else "norm",
    )


def deciding(norms: Array) -> Array:
    """All, or under a rise the last third: those are what a threshold will meet."""
    return np.array_split(norms, 3)[2] if drift(norms) > DRIFT_SAID else norms


def _dividing(history: History, norms: Array, tail: float) -> Choice:
    """Adam and its like: to clip each step changes no learning rate, it gives each step the same weight."""
    low = float(np.quantile(norms, 0.1))
    level, top = float(np.median(norms)), float(np.quantile(norms, 0.99))
    if tail < CALM or top > UNEVEN * level or history.unstable or is_undone(history):
        return Choice(
            0.1 * low,
            0.01 * low,
            level,
            f"a tenth of the 10th percentile: norms differ much from step to step, and {history.optimizer_class}"
            " divides by their size, so to clip every step gives each the same weight and leaves the learning rate as"
            " it is; any threshold that is always exceeded does the same",
        )
    deviation = (np.log(np.quantile(norms, 0.9)) - math.log(level)) / 1.2816
    guard = level * max(FACTOR, math.exp(SIGMAS * deviation))
    return Choice(
        max(top, guard),
        top,
        max(10 * level, guard),
        f"nothing went wrong, so it is a guard that lies where a norm would count as a spike ({FACTOR:g} times the"
        f" level or {SIGMAS:g} deviations above it) and will rarely act",
    )


def _bounding(history: History, norms: Array, why: str) -> Choice:
    """The training was lost, its progress undone or its steps far too large: bound what one update may change."""
    upper = float(np.quantile(_before_it_failed(history, norms), 0.75))
    bound = step_bound(history)
    if bound is None or bound >= upper:
        return Choice(
            upper,
            0.25 * upper,
            2 * upper,
            "the 75th percentile of the healthy norms, low enough to hold what went wrong",
        )
    return Choice(
        bound,
        0.25 * bound,
        2 * bound,
        f"{why}; at learning rate {history.learning_rate:g} it keeps every update within {STEP:.1%} of the weights'"
        f" norm of {history.weight_norm:.3g}; the norms recorded, {float(np.median(norms)):.3g} in the middle, are"
        " those of a training that was failing",
    )


def _before_it_failed(history: History, norms: Array) -> Array:
    """The norms up to where the loss was best; those of a network that has died say nothing about a healthy one."""
    losses = history.losses()
    if len(losses) < LEAST_LOSSES or len(losses) != history.steps or not np.isfinite(losses).all():
        return norms
    tenths = np.array_split(np.arange(len(losses)), 10)
    best = min(tenths, key=lambda rows: float(np.median(losses[rows])))
    own = history.norms[history.at <= best[-1]]
    return own if len(own) >= LEAST_NORMS else norms


def step_bound(history: History) -> float | None:
    """The norm at which an update of SGD is `STEP` of the weights; with momentum the sum of its echoes."""
    if history.is_scale_free or not history.learning_rate or history.weight_norm is None:
        return None
    return STEP * history.weight_norm * (1 - history.momentum) / history.learning_rate


def _noise(history: History, norms: Array) -> Choice:
    """Single steps dominate and the loss stands still: as low as lets the weights still go where they have to."""
    level = float(np.median(norms))
    if not history.learning_rate or history.last_weight_norm is None:
        return _heavy(norms)
    reach = TRAVEL * history.last_weight_norm * (1 - history.momentum) / (history.learning_rate * history.steps)
    number = min(level, max(reach, 0.1 * float(np.quantile(norms, 0.1))))
    return Choice(
        number,
        0.3 * number,
        level,
        "the loss makes no more progress and single steps dominate its gradient, so what is left is noise: a low"
        f" threshold averages it out, and updates can still carry the weights {TRAVEL:g} times their norm within"
        " as many steps as were recorded",
    )


def _heavy(norms: Array) -> Choice:
    """Single steps dominate, and there is progress still to be made."""
    level, upper = float(np.median(norms)), float(np.quantile(norms, 0.9))
    return Choice(
        upper,
        level,
        2 * upper,
        "the 90th percentile of the healthy norms: the tail is heavy, so a few steps would otherwise decide",
    )


def is_undone(history: History) -> bool:
    """Whether the training was lost, or its loss has come back up by a part of what it had fallen."""
    if history.ended_nonfinite:
        return True
    losses = history.losses()
    losses = losses[np.isfinite(losses)]
    if len(losses) < LEAST_LOSSES:
        return history.lost_at is not None
    tenths = np.array_split(losses, 10)
    middles = [float(np.median(part)) for part in tenths]
    start, best, end = _start(losses), min(middles), middles[-1]
    doubt = _uncertainty(tenths[-1]) + _uncertainty(tenths[int(np.argmin(middles))])
    if best > start - doubt or float(np.median(middles)) > start:
        return True  # nothing was learnt, or less than nothing
    return end - best > max(UNDONE * (start - best), doubt)


def is_flat(history: History) -> bool:
    """Whether the loss made no progress in the last third, as far as it had fallen before and can be told."""
    losses = history.losses()
    losses = losses[np.isfinite(losses)]
    if len(losses) < LEAST_LOSSES:
        return False
    thirds = np.array_split(losses, 3)
    middles = [float(np.median(part)) for part in thirds]
    start = _start(losses)
    return middles[1] - middles[2] < max(FLAT * abs(start - middles[2]), _uncertainty(thirds[2]))


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
