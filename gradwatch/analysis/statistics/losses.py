"""The logged losses in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradwatch.analysis.statistics.quantiles import chosen_of

MAX_LAST_LOSSES = 20  # losses: `last` is a median over at most this many


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSummary:
    """Statistics of the logged losses.

    Attributes:
        first: the first finite loss; None where no loss is finite. A median would hide a loss that leaps at once.
        last: the median of the last hundredth of the finite losses, of at most 20: the loss of one batch is noise.
        last_count: how many losses that median is of.
        end: the last logged loss where that is NaN or infinite, else ``last``.
        min: the least finite loss.
        min_step: its step.
        nonfinite_steps: steps whose loss is NaN or infinite.
    """

    first: float | None
    last: float | None
    last_count: int
    end: float
    min: float | None
    min_step: int | None
    nonfinite_steps: int


def loss_summary(steps: pd.DataFrame) -> LossSummary | None:
    """Summarize the losses of `RunReader.steps`; None where no loss was logged."""
    losses, logged = steps["loss"].to_numpy(float), steps["loss_logged"].to_numpy(bool)
    is_finite = logged & np.isfinite(losses)
    finite = chosen_of(losses, is_finite)
    if not logged.any():
        return None
    end = float(losses[np.flatnonzero(logged)[-1]])
    if not len(finite):
        bad = int(np.count_nonzero(logged))
        return LossSummary(first=None, last=None, last_count=0, end=end, min=None, min_step=None, nonfinite_steps=bad)
    few = min(MAX_LAST_LOSSES, max(1, len(finite) // 100))
    least = int(np.argmin(finite))
    last = float(np.median(finite[-few:]))
    return LossSummary(
        first=float(finite[0]),
        last=last,
        last_count=few,
        end=last if math.isfinite(end) else end,
        min=float(finite[least]),
        min_step=int(chosen_of(steps.index.to_numpy(np.int64), is_finite)[least]),
        nonfinite_steps=int(np.count_nonzero(logged)) - len(finite),
    )
