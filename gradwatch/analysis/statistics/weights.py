"""The sampled weights and updates over all parameters, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradwatch.analysis.statistics.layers import LayerSummary
from gradwatch.analysis.statistics.quantiles import quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSummary:
    """The sampled weights: the size of the updates and the growth of the weights."""

    samples: int
    median_update_ratio: float | None  # over all samples of all parameters
    max_update_ratio: float | None
    max_update_step: int | None
    max_update_parameter: str | None
    max_growth: float | None  # largest `weight_growth` of a parameter
    max_growth_parameter: str | None


def weight_summary(ratios: pd.DataFrame, layers: Sequence[LayerSummary]) -> WeightSummary | None:
    """Summarize the sampled update ratios, (samples, parameters); None where no weight was sampled."""
    if ratios.empty:
        return None
    table = ratios.to_numpy(float)
    finite = np.isfinite(table)
    row, column = divmod(int(np.argmax(np.where(finite, table, -np.inf))), table.shape[1])
    grown = [layer for layer in layers if layer.weight_growth is not None and math.isfinite(layer.weight_growth)]
    most = max(grown, key=lambda layer: layer.weight_growth or 0.0, default=None)
    return WeightSummary(
        samples=len(ratios),
        median_update_ratio=quantile(np.sort(table[finite]), 0.5),
        max_update_ratio=float(table[row, column]) if finite.any() else None,
        max_update_step=int(ratios.index[row]) if finite.any() else None,
        max_update_parameter=str(ratios.columns[column]) if finite.any() else None,
        max_growth=None if most is None else most.weight_growth,
        max_growth_parameter=None if most is None else most.name,
    )
