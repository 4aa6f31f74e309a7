"""One parameter's gradient over the run, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradwatch.analysis.history import RunReader
from gradwatch.analysis.long_runs import LongLayers
from gradwatch.analysis.statistics.norms import norm_summary
from gradwatch.analysis.statistics.quantiles import quantile
from gradwatch.analysis.statistics.series import Series
from gradwatch.record import SEVERITIES, Event

MAX_ZERO_SAMPLES = 10_000  # steps whose zero counts are read


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One parameter's gradient over the run, before clipping."""

    name: str
    numel: int
    median: float | None
    p99: float | None
    max: float | None
    max_step: int | None
    last: float | None
    zero_fraction: float | None  # mean share of entries that are exactly 0
    nonfinite_steps: int
    absent_steps: int  # steps without a gradient
    update_ratio: float | None  # median of the samples
    weight_growth: float | None  # last sampled weight norm over the first


def layer_summaries(
    reader: RunReader, optimizer: str, series: Series, ratios: pd.DataFrame
) -> tuple[LayerSummary, ...]:
    """Summarize each parameter, in the model's order; ``ratios`` are the sampled update ratios."""
    if series.long_layers is not None:
        return _long_summaries(reader, optimizer, series.long_layers, ratios)
    infos = reader.parameters(optimizer)
    zeros = _zero_fractions(reader, optimizer, len(series.step))
    weights = _weights(ratios, reader.layers("weight_norm", optimizer))
    table = series.layer_norm.T
    summaries = []
    for index, info in enumerate(infos):
        norms = table[index]
        found = norm_summary(norms, series.step)
        bad = series.layer_nonfinite[:, index]
        ratio, growth = weights.get(info.name, (None, None))
        summaries.append(
            LayerSummary(
                name=info.name,
                numel=info.numel,
                median=found.median,
                p99=found.p99,
                max=found.max,
                max_step=found.max_step,
                last=None if np.isnan(found.last or 0.0) and not bad[-1] else found.last,
                zero_fraction=zeros.get(info.name),
                nonfinite_steps=int(bad.sum()),
                absent_steps=int((np.isnan(norms) & ~bad).sum()),
                update_ratio=ratio,
                weight_growth=growth,
            )
        )
    return tuple(summaries)


def _long_summaries(
    reader: RunReader, optimizer: str, long: LongLayers, ratios: pd.DataFrame
) -> tuple[LayerSummary, ...]:
    """As `layer_summaries`, of a long run: medians and 99th percentiles to `ACCURACY`, all else exact."""
    infos = reader.parameters(optimizer)
    weights = _weights(ratios, reader.layers("weight_norm", optimizer))
    median, p99 = long.quantile(0.5), long.quantile(0.99)
    last = _last_norms(reader, optimizer, int(long.ids[-1]), len(infos))
    summaries = []
    for index, info in enumerate(infos):
        ratio, growth = weights.get(info.name, (None, None))
        there = long.high_at[index] >= 0
        summaries.append(
            LayerSummary(
                name=info.name,
                numel=info.numel,
                median=_known(median[index]),
                p99=_known(p99[index]),
                max=float(long.high[index]) if there else None,
                max_step=int(long.high_at[index]) if there else None,
                last=last[index],
                zero_fraction=_known(long.zeros[index] / max(info.numel, 1)),
                nonfinite_steps=int(long.bad[index]),
                absent_steps=int(long.absent[index]),
                update_ratio=ratio,
                weight_growth=growth,
            )
        )
    return tuple(summaries)


def _last_norms(reader: RunReader, optimizer: str, row: int, parameters: int) -> list[float | None]:
    """The norm of each parameter in a row; NaN where the gradient is not finite, None where there is none."""
    found, norms = reader.layer_rows("norm", optimizer, after=row - 1, up_to=row)
    if not len(found):
        return [None] * parameters
    counted, counts = reader.layer_rows("nonfinite", optimizer, after=row - 1, up_to=row)
    bad = counts[0] > 0 if len(counted) else np.zeros(norms.shape[1], bool)
    own = [None if np.isnan(norm) and not is_bad else float(norm) for norm, is_bad in zip(norms[0], bad, strict=True)]
    return own + [None] * (parameters - len(own))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def most_relevant(layers: Sequence[LayerSummary], events: Sequence[Event]) -> tuple[int, ...]:
    """Indices of the layers: those that an event names first, by severity, then by their rise above themselves."""
    named: dict[str, int] = {}
    for event in events:
        if event.parameter is not None:
            named[event.parameter] = max(named.get(event.parameter, 0), 1 + SEVERITIES.index(event.severity))

    def rank(index: int) -> tuple[float, float, int]:
        layer = layers[index]
        rise = (layer.max or 0.0) / layer.median if layer.median else 0.0
        return -named.get(layer.name, 0), -rise, index

    return tuple(sorted(range(len(layers)), key=rank))


def _zero_fractions(reader: RunReader, optimizer: str, steps: int) -> dict[str, float]:
    """The mean share of zero entries of each parameter that ever had a gradient; a long run is sampled."""
    zeros = reader.layers("zeros", optimizer, one_of=max(1, steps // MAX_ZERO_SAMPLES))
    if zeros.empty:  # the rows that exist may lie between those of the sample
        zeros = reader.layers("zeros", optimizer)
    counts = zeros.notna().sum()
    sizes = {info.name: max(info.numel, 1) for info in reader.parameters(optimizer)}
    means = zeros.sum()[counts > 0] / counts[counts > 0]
    return {str(name): float(mean / sizes[str(name)]) for name, mean in means.items()}


def _weights(ratios: pd.DataFrame, norms: pd.DataFrame) -> dict[str, tuple[float | None, float | None]]:
    """The median update ratio and the growth of the weight norm of each parameter, by its name."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for name in ratios.columns:
        ratio = ratios[name].to_numpy(float)
        ratio = np.sort(ratio[np.isfinite(ratio)])
        norm = norms[name].to_numpy(float)
        grown = float(norm[-1] / norm[0]) if len(norm) and norm[0] > 0 else None
        found[str(name)] = (quantile(ratio, 0.5), grown)
    return found
