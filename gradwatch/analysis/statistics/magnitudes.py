"""How large the entries of a few gradients were over a run: histograms of log2 of their magnitudes, by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.history import RunReader
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.series import Series
from gradwatch.record import Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Magnitudes:
    """The entries of some parameters' gradients by magnitude, at some of the steps at which they were counted.

    Attributes:
        names: of the parameters.
        sizes: how many entries each has; of a long one a sample was counted.
        step: ascending, (samples,).
        counts: of each of `gradwatch.record.MAGNITUDE_BINS`, (samples, parameters, bins); NaN without a gradient.
        loss_scale: at these steps; NaN where there was none.
        counted: at how many steps of the range the entries were counted; if there are more than samples, these are
            spaced evenly among them.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    step: NDArray[np.int64]
    counts: Floats
    loss_scale: Array
    counted: int


def magnitudes(
    reader: RunReader,
    series: Series,
    optimizer: str,
    positions: Sequence[int],
    first: float = -math.inf,
    last: float = math.inf,
    *,
    most: int = 400,
    rows: NDArray[np.int64] | None = None,
) -> Magnitudes:
    """Read the histograms of the parameters at some positions, at ``most`` samples from ``first`` to ``last``.

    A sample holds until the next one, so the last one before ``first`` is among them.

    Args:
        reader: the run.
        series: of the optimizer.
        optimizer: its name.
        positions: of the parameters.
        first: step.
        last: step.
        most: at most as many samples.
        rows: `RunReader.magnitude_ids`, if they were read.
    """
    own = reader.magnitude_ids(optimizer) if rows is None else rows
    begin = max(0, int(np.searchsorted(own[:, 1], first, side="right")) - 1)
    inside = own[begin : int(np.searchsorted(own[:, 1], last, side="right"))]
    spaced = np.linspace(0, len(inside) - 1, min(most, len(inside))).round().astype(np.int64)
    found, counts = reader.magnitude_rows(inside[spaced, 0], positions, optimizer)
    steps = found[:, 1]
    at = np.minimum(np.searchsorted(series.step, steps), len(series.step) - 1)
    infos = reader.parameters(optimizer)
    return Magnitudes(
        names=tuple(infos[position].name for position in positions),
        sizes=tuple(infos[position].numel for position in positions),
        step=steps,
        counts=counts,
        loss_scale=np.where(series.step[at] == steps, series.loss_scale[at], np.nan),
        counted=len(inside),
    )
