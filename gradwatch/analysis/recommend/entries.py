"""Clip by value, per parameter or by norm? It depends on whether spikes are in an entry, a parameter or all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.history import RunReader
from gradwatch.analysis.recommend.what_if import two_digits
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.text import number
from gradwatch.text import share as percentage

MOST_SPIKES = 20  # spikes that are read
MOST_SAMPLES = 400  # steps whose largest entries and norms of parameters are read
OWN_RISE, REST_RISE = 4.0, 2.0  # times its usual norm: of the parameter that stands out, at least, and of all others
CARRIED = 0.5  # of the squared norm: an entry with as much carries the step


Kind: TypeAlias = Literal["value", "parameter", "norm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToClip:
    """By value, per parameter or by norm; None if the record can't tell."""

    by: Kind | None
    reason: str
    clip_value: float | None = None  # the threshold by value


def value_or_norm(reader: RunReader, optimizer: str, history: OptimizerHistory, max_norm: float) -> HowToClip:
    """By which of the kinds to clip, and why; ``max_norm`` is the advice by norm."""
    if not history.spikes:
        return HowToClip(by=None, reason="by value or by norm: the record can't tell, for no step stood out")
    shares = _largest_entries(reader, optimizer, history)
    if not len(shares):
        why = "it lacks the largest entries of the steps that stood out"
        return HowToClip(by=None, reason=f"by value or by norm: the record can't tell, for {why}")
    share = float(np.median(shares))
    if share >= CARRIED:
        threshold, count = _threshold_by_value(reader, optimizer, history, max_norm)
        return HowToClip(
            by="value",
            reason=f"by value or by norm: one entry carries {percentage(share)} of the squared norm of the steps that"
            " stood out, so a clip by value would cut it alone, where one by norm shrinks all others with it"
            f": `clip_grad_value_` at {number(threshold, 6)} keeps every step of {count} entries within"
            f" {number(max_norm, 6)} too",
            clip_value=threshold,
        )
    alone = _alone(reader, optimizer, history)
    if alone is not None:
        return HowToClip(
            by="parameter",
            reason=f"by value or by norm: per parameter, for {alone} alone stood out at these steps, and a clip by the"
            " total norm shrinks all others with it (gradwatch.clip.LayerNormClip)",
        )
    return HowToClip(
        by="norm",
        reason="by value or by norm: by norm, for the steps that stood out are large in many entries (the largest has"
        f" {percentage(share)} of the squared norm), and a clip by norm keeps their direction",
    )


def _largest_entries(reader: RunReader, optimizer: str, history: OptimizerHistory) -> Array:
    """The share of the squared norm that the largest entry has, at steps of spikes where both are known, (spikes,)."""
    norms = history.frame["total_norm"]
    rows = _rows_of_spikes(reader, optimizer, history)
    found = [_share(_row(reader, optimizer, int(row[0]), "abs_max"), float(norms.loc[int(row[1])])) for row in rows]
    return np.array([share for share in found if share is not None])


def _rows_of_spikes(reader: RunReader, optimizer: str, history: OptimizerHistory) -> NDArray[np.int64]:
    """Row of the store and step of the spikes that are read, (spikes, 2)."""
    spikes = [e.step for e in history.events if e.severity != "info" and e.kind in ("spike", "explosion")]
    rows: NDArray[np.int64] = reader.standing(optimizer)
    return rows[np.isin(rows[:, 1], spikes[:MOST_SPIKES])]


def _threshold_by_value(
    reader: RunReader, optimizer: str, history: OptimizerHistory, max_norm: float
) -> tuple[float, int]:
    """The entry threshold with which no step exceeds a norm, and the number of entries that it holds for.

    A gradient of n entries within c has a norm of at most c sqrt(n). Entries that are exactly 0 at a step don't count.
    """
    sizes = np.array([info.numel for info in reader.parameters(optimizer)], float)
    zeros = reader.layers("zeros", optimizer, one_of=_distance(history)).to_numpy(float)
    zeros = zeros[np.isfinite(zeros).all(axis=1)]
    entries = sizes.sum() - (float(np.median(zeros.sum(axis=1))) if zeros.size else 0.0)
    count = max(1, int(entries))
    return two_digits(max_norm / math.sqrt(count)), count


def _alone(reader: RunReader, optimizer: str, history: OptimizerHistory) -> str | None:
    """The parameter that stood out at most spikes while all others together had about their usual norm."""
    usual = np.square(_sampled(reader, optimizer, history, "norm"))
    if not usual.size or usual.shape[1] < 2:
        return None
    names, found = [info.name for info in reader.parameters(optimizer)], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for row in _rows_of_spikes(reader, optimizer, history):
            squares = np.square(_row(reader, optimizer, int(row[0]), "norm"))
            if squares.shape != (usual.shape[1],):
                return None
            largest = int(np.argmax(squares))
            rest = (squares.sum() - squares[largest]) / np.median(usual.sum(axis=1) - usual[:, largest])
            own = squares[largest] / np.median(usual[:, largest])
            found.append(names[largest] if own > OWN_RISE**2 and rest < REST_RISE**2 else None)
    return found[0] if found and found[0] is not None and found.count(found[0]) > len(found) / 2 else None


def _sampled(reader: RunReader, optimizer: str, history: OptimizerHistory, stat: str) -> Array:
    """A statistic of each parameter at an even sample of the steps, (samples, parameters)."""
    table: Array = reader.layers(stat, optimizer, one_of=_distance(history)).to_numpy(float)
    return table[np.isfinite(table).all(axis=1)]


def _distance(history: OptimizerHistory) -> int:
    """Rows of several optimizers take turns: an odd distance meets the rows of each of them."""
    return max(1, history.steps // MOST_SAMPLES) | 1


def _row(reader: RunReader, optimizer: str, row: int, stat: str) -> Array:
    _, table = reader.layer_rows(stat, optimizer, after=row - 1, up_to=row)
    values: NDArray[np.float64] = table.astype(float).ravel()
    return values[np.isfinite(values)]


def _share(entries: Array, norm: float) -> float | None:
    if not len(entries) or not np.isfinite(norm) or norm <= 0:
        return None
    return min(1.0, float(entries.max() / norm) ** 2)
