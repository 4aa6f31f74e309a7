"""The losses of validations, and the step after which they rise while the loss of the training falls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of, robust_deviation
from gradwatch.record import VALIDATION_KEY

MIN_VALIDATIONS = 6
LAST = 3  # validations whose median is the level at the end, and that come after the best at least
RISE = 0.05  # of the best level, and of the progress: a smaller rise is not told
NOISE = 3.0  # robust deviations of single validations about their course
MIN_LOSSES = 40  # of the training


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A validation loss that rises for good: its best step, and both losses there and at the end."""

    step: int
    best: float
    last: float
    training_then: float
    training_last: float


def validation_losses(meta: Mapping[str, str]) -> pd.Series[float]:
    """The finite losses of validations by step; a later attempt replaces what an earlier one had from there on.

    >>> validation_losses({"validation_loss.7": "[[10, 2.0], [20, 1.0]]", "validation_loss.9": "[[15, 1.5]]"}).to_dict()
    {10: 2.0, 15: 1.5}
    """
    found: dict[int, float] = {}
    for key in sorted((key for key in meta if key.startswith(VALIDATION_KEY)), key=lambda key: (len(key), key)):
        points = _points(meta[key])
        if points:
            found = {step: loss for step, loss in found.items() if step < points[0][0]} | dict(points)
    losses = pd.Series(found, dtype=float).sort_index()
    return losses[np.isfinite(losses)]


def _points(text: str) -> list[tuple[int, float]]:
    """The pairs of step and loss in an entry; none if it is damaged."""
    try:
        return [(int(step), float(loss)) for step, loss in json.loads(text)]
    except (ValueError, TypeError, OverflowError):
        return []


def turn(validations: pd.Series[float], history: OptimizerHistory) -> Turn | None:
    """Where the validation loss began to rise while the loss of the training fell on; None: it did not."""
    if len(validations) < MIN_VALIDATIONS:
        return None
    losses = validations.to_numpy(float)
    at = int(np.argmin(losses))
    if len(losses) - 1 - at < LAST:
        return None
    best, last = float(np.median(losses[max(0, at - 1) : at + 2])), float(np.median(losses[-LAST:]))
    noise = robust_deviation(np.diff(losses, 2)) / np.sqrt(6)  # a straight line has none
    least = max(RISE * abs(best), RISE * (float(losses[0]) - best), NOISE * noise)
    step = int(validations.index[at])
    then, at_the_end = _training_losses(history, step)
    if last - best <= least or not len(then):
        return None
    fell = float(np.median(then) - np.median(at_the_end))
    if fell <= _uncertainty(then) + _uncertainty(at_the_end):
        return None
    return Turn(
        step=step,
        best=best,
        last=last,
        training_then=float(np.median(then)),
        training_last=float(np.median(at_the_end)),
    )


def _training_losses(history: OptimizerHistory, step: int) -> tuple[Array, Array]:
    """As many losses of the training near a step and at the end; none of few."""
    losses = history.losses
    if len(losses) < MIN_LOSSES:
        return losses[:0], losses[:0]
    count = len(losses) // 10
    after = int(np.searchsorted(history.loss_steps, step, side="right"))
    return losses[max(0, after - count) : max(after, count)], losses[-count:]


def _uncertainty(losses: Array) -> float:
    """Three standard errors of the median, from the differences of neighbours: near the best, losses still fall."""
    return float(3 * 1.2533 * noise_of(losses) / np.sqrt(len(losses)))
