"""The logged losses in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

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
    logged = steps.loc[steps["loss_logged"], "loss"]
    finite = logged[np.isfinite(logged)]
    if finite.empty:
        return None
    edge = min(MAX_EDGE_LOSSES, max(1, len(finite) // 100))
    return LossSummary(
        first=float(finite.iloc[:edge].median()),
        last=float(finite.iloc[-edge:].median()),
        min=float(finite.min()),
        min_step=int(finite.index[int(np.argmin(finite.to_numpy()))]),
        nonfinite_steps=int(len(logged) - len(finite)),
    )
