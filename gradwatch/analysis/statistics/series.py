"""Series with one entry for each step, for views and rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.frames import is_loss_nonfinite, is_nonfinite
from gradwatch.analysis.history import RunReader, rows_per_read
from gradwatch.analysis.long_runs import ABSENT, LongLayers, long_layers
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.record import Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """The numbers of every step, (steps,) each; NaN where a value is not known."""

    step: NDArray[np.int64]
    total_norm: Array
    max_norm: Array
    clip_coef: Array
    clipped: NDArray[np.bool_]
    by_value: NDArray[np.bool_]  # entries were clipped by value
    loss: Array
    loss_nonfinite: NDArray[np.bool_]  # a loss was logged, and it is NaN or infinite
    learning_rate: Array
    loss_scale: Array  # of the GradScaler
    nonfinite: NDArray[np.bool_]
    update_norm: Array  # of the update as the optimizer computed it
    update_ratio: Array  # that over the norm of the weights before the step
    layer_norm: Floats  # (steps, parameters); (steps, 0) where the layers were left out
    layer_nonfinite: NDArray[np.bool_]  # as layer_norm
    long_layers: LongLayers | None = None  # of a long run; layer_norm then has the largest of every 64 steps

    @property
    def left_norm(self) -> Array:
        """Total_norm x clip_coef, the norm after clipping; NaN where entries were clipped by value."""
        with np.errstate(invalid="ignore"):
            left: Array = self.total_norm * self.clip_coef
        left[self.by_value] = np.nan
        return left


def step_series(reader: RunReader, optimizer: str, steps: pd.DataFrame, *, layers: bool) -> Series:
    """The series of one optimizer from its frame of `RunReader.steps`; without ``layers`` no layer is read."""
    none = np.empty((len(steps), 0), np.float32)
    long = long_layers(reader, optimizer, stats=("norm", "nonfinite")) if layers else None
    if long is not None:
        table, bad = _largest_norms(long)
    else:
        table, bad = _layer_norms(reader, optimizer, steps) if layers else (none, none.astype(bool))
    total = steps["total_norm"].to_numpy(float)
    return Series(
        step=steps.index.to_numpy(np.int64),
        total_norm=total,
        max_norm=steps["max_norm"].to_numpy(float),
        clip_coef=steps["clip_coef"].to_numpy(float),
        clipped=steps["clipped"].to_numpy(bool),
        by_value=steps["clip_value"].notna().to_numpy(),
        loss=steps["loss"].to_numpy(float),
        loss_nonfinite=is_loss_nonfinite(steps),
        learning_rate=steps["learning_rate"].to_numpy(float),
        loss_scale=steps["loss_scale"].to_numpy(float),
        nonfinite=is_nonfinite(steps),
        update_norm=steps["update_norm"].to_numpy(float),
        update_ratio=steps["update_ratio"].to_numpy(float),
        layer_norm=table,
        layer_nonfinite=bad,
        long_layers=long,
    )


def _largest_norms(long: LongLayers) -> tuple[Floats, NDArray[np.bool_]]:
    """The largest norm of each group of steps and whether a gradient in it was non-finite, (groups, parameters)."""
    table = long.maxima["norm"]
    counts = long.maxima.get("nonfinite")
    none: NDArray[np.bool_] = np.broadcast_to(np.bool_(False), table.shape)
    bad = none if counts is None or not counts.any() else counts > 0
    unknown = (table == ABSENT) | bad
    return np.where(unknown, np.float32(np.nan), table) if unknown.any() else table, bad


def _layer_norms(reader: RunReader, optimizer: str, steps: pd.DataFrame) -> tuple[Floats, NDArray[np.bool_]]:
    """The norms and whether each gradient was non-finite, (steps, parameters) each.

    The store is read in parts, so that the table is held in memory only once.
    """
    parameters = len(reader.parameters(optimizer))
    # One parameter after the other in memory: that is how they are sorted and drawn.
    table = np.full((parameters, len(steps)), np.nan, np.float32)
    bad = np.zeros(table.shape, bool)
    suspect = steps["nonfinite"].to_numpy() > 0
    standing = reader.standing(optimizer)
    standing = standing[np.isin(standing[:, 1], steps.index)]  # a run that is being written may have more by now
    standing = standing[np.argsort(standing[:, 0])]
    columns = np.searchsorted(steps.index.to_numpy(np.int64), standing[:, 1])
    rows = rows_per_read(parameters)
    for begin in range(0, len(standing), rows):
        ids, place = standing[begin : begin + rows, 0], columns[begin : begin + rows]
        between = {"after": int(ids[0]) - 1, "up_to": int(ids[-1])}
        found, norms = reader.layer_rows("norm", optimizer, **between)
        stands = np.isin(found, ids)
        at, norms = place[np.searchsorted(ids, found[stands])], norms[stands]
        table[: norms.shape[1], at] = norms.T
        if suspect[at].any():
            counted, counts = reader.layer_rows("nonfinite", optimizer, **between)
            is_bad = counts[np.isin(counted, ids)] > 0 if np.array_equal(counted, found) else ~np.isfinite(norms)
            bad[: norms.shape[1], at] = (is_bad & suspect[at, None]).T
    return table.T, bad.T
