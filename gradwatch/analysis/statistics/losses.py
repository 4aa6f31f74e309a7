"""The logged losses in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradwatch.analysis.statistics.quantiles import chosen_of

MAX_EDGE_LOSSES = 20  # losses: `first` and `last` are medians over at most this many


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSummary:
    """Statistics of the logged losses. First and last are medians over one hundredth of them, at most 20."""

    first: float | None
    last: float | None
    min: float | None
    min_step: int | None
    nonfinite_steps: int


def loss_summary(steps: pd.DataFrame) -> LossSummary | None:
    """Summarize the losses of `RunReader.steps`; None where no finite loss was logged."""
    losses, logged = steps["loss"].to_numpy(float), steps["loss_logged"].to_numpy(bool)
    is_finite = logged & np.isfinite(losses)
    finite = chosen_of(losses, is_finite)
    if not len(finite):
        return None
    edge = min(MAX_EDGE_LOSSES, max(1, len(finite) // 100))
    least = int(np.argmin(finite))
    return LossSummary(
        first=float(np.median(finite[:edge])),
        last=float(np.median(finite[-edge:])),
        min=float(finite[least]),
        min_step=int(chosen_of(steps.index.to_numpy(np.int64), is_finite)[least]),
        nonfinite_steps=int(np.count_nonzero(logged)) - len(finite),
    )
