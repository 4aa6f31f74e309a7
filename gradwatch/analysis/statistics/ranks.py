"""The processes of a distributed training, and the gradient noise scale that their gradients give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from gradwatch.analysis.history import RunReader
from gradwatch.analysis.statistics.norms import norm_summary


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSummary:
    """One process of a distributed training: its own gradient before the reduction, or its part of the gradient."""

    rank: int
    steps: int  # at which it was heard
    median: float | None
    max: float | None
    max_step: int | None
    nonfinite_steps: int
    differing_steps: int  # at which its gradient was not the other ranks'


def rank_summaries(reader: RunReader, optimizer: str) -> tuple[RankSummary, ...]:
    """Summarize each rank; empty where the ranks were not recorded."""
    norms = reader.ranks("norm", optimizer)
    if norms.empty:
        return ()
    bad, differing = (reader.ranks(stat, optimizer).to_numpy() > 0 for stat in ("nonfinite", "differing"))
    step = norms.index.to_numpy(np.int64)
    table = norms.to_numpy(float)
    summaries = []
    for rank in range(table.shape[1]):
        found = norm_summary(table[:, rank], step)
        summaries.append(
            RankSummary(
                rank=rank,
                steps=int((~np.isnan(table[:, rank]) | bad[:, rank]).sum()),
                median=found.median,
                max=found.max,
                max_step=found.max_step,
                nonfinite_steps=int(bad[:, rank].sum()),
                differing_steps=int(differing[:, rank].sum()),
            )
        )
    return tuple(summaries)


def noise_scale(reader: RunReader, optimizer: str | None = None, smoothing: float = 0.99) -> pd.Series[float]:
    """The gradient noise scale at each step; see `gradwatch.Run.noise_scale`."""
    local = reader.ranks("norm", optimizer)
    if local.shape[1] < 2:
        return _of_micro_batches(reader, optimizer, smoothing)
    before, ranks = reader.ranks("before_reduction", optimizer), local.shape[1]
    usable = (before.to_numpy() == 1).all(axis=1) & np.isfinite(local.to_numpy()).all(axis=1)
    small = (local.astype(float) ** 2).mean(axis=1)[usable]
    large = reader.steps(optimizer)["total_norm"].reindex(small.index) ** 2
    return _noise_over_signal(small, large, pd.Series(float(ranks), small.index), smoothing, local.index)


def _of_micro_batches(reader: RunReader, optimizer: str | None, smoothing: float) -> pd.Series[float]:
    """The noise scale from the first micro-batch of each step beside all of its micro-batches."""
    norms = reader.accumulation("norm", optimizer).astype(float)
    if norms.empty:
        return pd.Series(np.nan, index=reader.ranks("norm", optimizer).index, name="noise_scale", dtype=float)
    counts = reader.accumulation("micro_batches", optimizer).astype(float).reindex(norms.index)
    number = counts[1] / counts[0]
    usable = np.isfinite(norms.to_numpy()).all(axis=1) & (number.to_numpy() > 1)
    small, large = (norms[0] ** 2)[usable], ((norms[1] / number) ** 2)[usable]
    return _noise_over_signal(small, large, number[usable], smoothing, norms.index)


def _noise_over_signal(
    small: pd.Series[float], large: pd.Series[float], number: pd.Series[float], smoothing: float, index: pd.Index[int]
) -> pd.Series[float]:
    """McCandlish's estimate, smoothed.

    Args:
        small: squared norm of the gradient of one batch.
        large: the same of the mean over ``number`` such batches.
        number: how many batches.
        smoothing: the factor by which an older step counts less.
        index: the steps of the result.
    """
    signal = (number * large - small) / (number - 1)
    noise = (small - large) * number / (number - 1)
    smooth = [values.ewm(alpha=1 - smoothing, ignore_na=True).mean() for values in (noise, signal)]
    scale: pd.Series[float] = (smooth[0] / smooth[1].where(smooth[1] > 0)).reindex(index)
    return scale.rename("noise_scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSummary:
    """The gradient noise scale over a run, in batches of ``of``.

    Attributes:
        of: what the gradients compared are of: ranks, or micro-batches; None where nothing is known.
        why: why nothing is known.
        first, last: the median over the first and the last tenth of the steps at which it is known.
        max: the largest, after the first tenth.
    """

    of: Literal["rank", "micro-batch"] | None
    why: str | None = None
    first: float | None = None
    last: float | None = None
    max: float | None = None


def noise_summary(reader: RunReader, optimizer: str) -> tuple[NoiseSummary, pd.Series[float]]:
    """The noise scale in numbers, and at each step."""
    series = noise_scale(reader, optimizer)
    known = series.dropna()
    if reader.ranks("norm", optimizer).shape[1] > 1:
        of: Literal["rank", "micro-batch"] | None = "rank"
    else:
        of = "micro-batch" if len(reader.accumulation("norm", optimizer)) else None
    if of is None or known.empty:
        return NoiseSummary(of=None, why=NO_PARTS if of is None else NO_SIGNAL), series
    few = max(1, len(known) // 10)
    return NoiseSummary(
        of=of,
        first=float(known.iloc[:few].median()),
        last=float(known.iloc[-few:].median()),
        max=float(known.iloc[few:].max() if len(known) > few else known.max()),
    ), series


NO_PARTS = "each step has one batch: neither micro-batches that accumulate nor the gradients of ranks were recorded"
NO_SIGNAL = "the mean gradient does not stand out from the noise"


def last_known(values: pd.Series[float]) -> float | None:
    """The last value that is not NaN; None where every one is."""
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None
