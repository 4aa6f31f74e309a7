"""Whether the loss made progress and kept it, and how the norms moved."""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.statistics.loss_levels import first_loss, medians, uncertainty
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.tail import detrended

MIN_LOSSES = 100  # losses without which progress is not judged
UNDONE_SHARE = 0.15  # of the progress of the loss: a rise by more than that undoes it
FLAT_SHARE = 0.05  # of the progress of the loss: less than that in the last third is none
REMAINING_LOSS_SHARE = 0.05  # of the first loss: a smaller loss is solved rather than noise
NOTABLE_UPDATE_RATIO = 0.005  # median share of the weights' norm that an update changes
WIDE_SPREAD = 2.0  # 90th percentile over the median of the norms: many steps stand out, not a few


def is_noise(history: OptimizerHistory) -> bool:
    """Whether the loss stands still, well above 0, while the updates are large enough to scatter the weights.

    Beside an opponent a loss stands still though both learn.
    """
    if history.has_opponents or not is_flat(history) or history.lost_at is not None or history.ended_nonfinite:
        return False
    losses = history.losses
    return (
        history.last_weight_norm is not None
        and (history.update_ratio or 0.0) > NOTABLE_UPDATE_RATIO
        and spread(history.norms, 0.9) > WIDE_SPREAD
        and float(np.median(np.array_split(losses, 3)[2])) > REMAINING_LOSS_SHARE * first_loss(losses)
    )


def spread(norms: Array, share: float) -> float:
    """A quantile of the norms, each divided by the median of its neighbours."""
    return float(np.exp(np.quantile(detrended(norms), share)))


def is_undone(history: OptimizerHistory) -> bool:
    """Whether the training was lost, or its loss rose again by a part of its earlier progress.

    A loss that rises as an opponent learns is no loss of progress.
    """
    if history.ended_nonfinite:
        return True
    losses = history.losses
    if len(losses) < MIN_LOSSES or history.has_surrogate_loss or history.has_opponents:
        return history.lost_at is not None
    tenths = np.array_split(losses, 10)
    tenth_medians = history.loss_levels
    start, best, end = first_loss(losses), min(tenth_medians), tenth_medians[-1]
    doubt = uncertainty(tenths[-1]) + uncertainty(tenths[int(np.argmin(tenth_medians))])
    if best > start - doubt or float(np.median(tenth_medians)) > start:
        return True  # nothing was learnt, or what had been learnt is gone
    return end - best > max(UNDONE_SHARE * (start - best), doubt)


def has_risen(history: OptimizerHistory) -> bool:
    """Whether the loss ends above its best level, by a notable part of its progress and beyond doubt."""
    losses = history.losses
    if len(losses) < MIN_LOSSES or history.has_surrogate_loss:
        return history.lost_at is not None
    tenths = np.array_split(losses, 10)
    tenth_medians = history.loss_levels
    best = int(np.argmin(tenth_medians))
    doubt = uncertainty(tenths[-1]) + uncertainty(tenths[best])
    progress = max(0.0, first_loss(losses) - tenth_medians[best])
    return tenth_medians[-1] - tenth_medians[best] > max(UNDONE_SHARE * progress, doubt)


def is_flat(history: OptimizerHistory) -> bool:
    """Whether the last third of the losses made no progress that is notable and beyond doubt."""
    losses = history.losses
    if len(losses) < MIN_LOSSES or history.has_surrogate_loss:
        return False
    thirds = np.array_split(losses, 3)
    third_medians = medians(thirds)
    progress = abs(first_loss(losses) - third_medians[2])
    return third_medians[1] - third_medians[2] < max(FLAT_SHARE * progress, uncertainty(thirds[2]))


def drift(norms: Array) -> float:
    """The median of the last third of the norms over that of the first; NaN for fewer than three norms.

    >>> drift(np.array([1.0, 1.0, 1.0, 1.0, 3.0, 3.0])).__round__(6), drift(np.array([1.0]))
    (3.0, nan)
    """
    if len(norms) < 3:
        return math.nan
    thirds = np.array_split(np.log(norms), 3)
    return float(np.exp(np.median(thirds[2]) - np.median(thirds[0])))
