"""The processes of a distributed training, and the gradient noise scale that their gradients give."""

from __future__ import annotations

from dataclasses import dataclass

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
    """The gradient noise scale at each step, in batches of one rank; see `gradwatch.Run.noise_scale`."""
    local, before = reader.ranks("norm", optimizer), reader.ranks("before_reduction", optimizer)
    ranks = local.shape[1]
    if ranks < 2:
        return pd.Series(np.nan, index=local.index, name="noise_scale", dtype=float)
    usable = (before.to_numpy() == 1).all(axis=1) & np.isfinite(local.to_numpy()).all(axis=1)
    small = (local.astype(float) ** 2).mean(axis=1)[usable]
    large = reader.steps(optimizer)["total_norm"].reindex(small.index) ** 2
    signal = (ranks * large - small) / (ranks - 1)
    noise = (small - large) * ranks / (ranks - 1)
    smooth = [values.ewm(alpha=1 - smoothing, ignore_na=True).mean() for values in (noise, signal)]
    scale: pd.Series[float] = (smooth[0] / smooth[1].where(smooth[1] > 0)).reindex(local.index)
    return scale.rename("noise_scale")


def last_known(values: pd.Series[float]) -> float | None:
    """The last value that is not NaN; None where every one is."""
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None
