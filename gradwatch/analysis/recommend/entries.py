"""Clip by value or by norm? It depends on whether spikes are in single entries or in the whole gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.history import RunReader
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array

MOST_SPIKES = 20  # spikes that are read
CARRIED = 0.5  # of the squared norm: an entry with as much carries the step


def value_or_norm(reader: RunReader, optimizer: str, history: OptimizerHistory) -> str:
    """A sentence that says by which of the two to clip, or that the record can't tell."""
    if not history.spikes:
        return "by value or by norm: the record can't tell, for no step stood out"
    shares = _largest_entries(reader, optimizer, history)
    if not len(shares):
        return (
            "by value or by norm: the record can't tell, for it lacks the largest entries of the steps that stood out"
        )
    share = float(np.median(shares))
    if share >= CARRIED:
        return (
            f"by value or by norm: one entry carries {share:.0%} of the squared norm of the steps that stood out, so a"
            " clip by value would cut it and leave the others, where one by norm shrinks all"
        )
    return (
        "by value or by norm: by norm, for the steps that stood out are large in many entries (the largest has"
        f" {share:.0%} of the squared norm), and a clip by norm keeps their direction"
    )


def _largest_entries(reader: RunReader, optimizer: str, history: OptimizerHistory) -> Array:
    """The share of the squared norm that the largest entry has, at steps of spikes where both are known, (spikes,)."""
    spikes = [e.step for e in history.events if e.severity != "info" and e.kind in ("spike", "explosion")]
    rows = reader.standing(optimizer)
    rows = rows[np.isin(rows[:, 1], spikes[:MOST_SPIKES])]
    norms = history.frame["total_norm"]
    found = [_share(_row(reader, optimizer, int(row[0])), float(norms.loc[int(row[1])])) for row in rows]
    return np.array([share for share in found if share is not None])


def _row(reader: RunReader, optimizer: str, row: int) -> Array:
    _, table = reader.layer_rows("abs_max", optimizer, after=row - 1, up_to=row)
    values: NDArray[np.float64] = table.astype(float).ravel()
    return values[np.isfinite(values)]


def _share(entries: Array, norm: float) -> float | None:
    if not len(entries) or not np.isfinite(norm) or norm <= 0:
        return None
    return min(1.0, float(entries.max() / norm) ** 2)
