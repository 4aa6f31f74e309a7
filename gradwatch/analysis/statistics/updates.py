"""The updates as the optimizer computed them, over all parameters, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.history import RunReader, rows_per_read
from gradwatch.analysis.statistics.quantiles import Array, quantile

LONG_RUN = 50_000
"""Steps from which on `largest_rms_ratios` reads nothing: it would have to read every row of a long run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSummary:
    """The updates of a run; None where nothing is known."""

    steps: int  # at which updates were recorded
    median_update_ratio: float | None  # of all weights together
    max_update_ratio: float | None
    max_update_step: int | None
    median_rms_ratio: float | None  # of the largest of each step at which all were read
    max_rms_ratio: float | None  # of any step, those included at which only the sentinels were read
    max_rms_step: int | None
    max_rms_parameter: str | None


def largest_rms_ratios(reader: RunReader, optimizer: str, steps: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """The largest ``rms_ratio`` of any parameter at each of the steps, and the position of that parameter.

    NaN and -1 where it was not recorded, and throughout in a run of `LONG_RUN` steps or more.
    """
    largest, at = np.full(len(steps), np.nan), np.full(len(steps), -1, np.int64)
    standing = reader.standing(optimizer) if len(steps) < LONG_RUN else np.empty((0, 3), np.int64)
    standing = standing[np.argsort(standing[:, 0])]
    rows = rows_per_read(len(reader.parameters(optimizer)))
    for begin in range(0, len(standing), rows):
        part = standing[begin : begin + rows]
        ids, ratios = reader.layer_rows("rms_ratio", optimizer, after=int(part[0, 0]) - 1, up_to=int(part[-1, 0]))
        kept = np.isin(ids, part[:, 0]) & np.isfinite(ratios).any(axis=1)
        if not kept.any():
            continue
        found = np.where(np.isfinite(ratios[kept]), ratios[kept], -np.inf)
        place = np.searchsorted(steps, part[np.searchsorted(part[:, 0], ids[kept]), 1])
        there = (place < len(steps)) & (
            steps[np.minimum(place, len(steps) - 1)] == part[np.searchsorted(part[:, 0], ids[kept]), 1]
        )
        largest[place[there]] = found.max(axis=1)[there]
        at[place[there]] = found.argmax(axis=1)[there]
    return largest, at


def sentinel_series(reader: RunReader, optimizer: str, steps: NDArray[np.int64]) -> dict[str, Array]:
    """Updates of the sentinels at each of the steps; NaN where they were not recorded, and throughout in a `LONG_RUN`.

    Of those that were read most often, so that no line jumps where another one joins: ``sentinel_rms_ratio``, the
    largest of them, ``sentinel_update_norm``, that of all of them together, and ``sentinel_update_ratio``, that over
    the norm of their weights.
    """
    names = ("sentinel_rms_ratio", "sentinel_update_norm", "sentinel_update_ratio")
    found = {name: np.full(len(steps), np.nan) for name in names}
    if not 0 < len(steps) < LONG_RUN or reader.sentinels("update_norm", optimizer).empty:
        return found
    tables = {}
    for stat in ("rms_ratio", "update_norm", "weight_norm"):
        frame = reader.sentinels(stat, optimizer)
        known = frame.notna().sum()
        kept = frame.loc[~frame.index.duplicated(), known == known.max()]
        tables[stat] = kept.reindex(steps).to_numpy(float)
    update, weight = (np.sqrt((tables[stat] ** 2).sum(axis=1)) for stat in ("update_norm", "weight_norm"))
    recorded = tables["rms_ratio"]  # of no parameter with optimizers such as SGD
    ratios = np.where(np.isfinite(recorded), recorded, -np.inf).max(axis=1, initial=-np.inf)
    found["sentinel_rms_ratio"] = np.where(ratios >= 0, ratios, np.nan)
    found["sentinel_update_norm"] = update
    found["sentinel_update_ratio"] = np.divide(update, weight, out=np.full(len(steps), np.nan), where=weight > 0)
    return found


def update_summary(reader: RunReader, optimizer: str, frame: pd.DataFrame) -> UpdateSummary | None:
    """Summarize the recorded updates of one optimizer, whose rows of `RunReader.steps` are given; None if it has none.

    >>> from gradwatch.analysis.history import RunReader
    >>> reader = RunReader(example_run)
    >>> update_summary(reader, "0", reader.steps("0")) is None
    True
    """
    ratios = frame["update_ratio"].to_numpy(float)
    norms = frame["update_norm"].to_numpy(float)
    recorded = int((~np.isnan(norms)).sum())
    if not recorded:
        return None
    steps = frame.index.to_numpy(np.int64)
    largest, at = largest_rms_ratios(reader, optimizer, steps)
    median, most, step = _median_and_largest(ratios, steps)
    rms_median, rms_most, rms_step = _median_and_largest(largest, steps)
    names = [info.name for info in reader.parameters(optimizer)]
    owner = int(at[np.nanargmax(largest)]) if rms_most is not None else -1
    parameter = names[owner] if 0 <= owner < len(names) else None
    if len(steps) < LONG_RUN and (highest := _highest(reader.sentinels("rms_ratio", optimizer))) is not None:
        value, highest_step, name = highest
        if rms_most is None or value > rms_most:
            rms_most, rms_step, parameter = value, highest_step, name
    return UpdateSummary(
        steps=recorded,
        median_update_ratio=median,
        max_update_ratio=most,
        max_update_step=step,
        median_rms_ratio=rms_median,
        max_rms_ratio=rms_most,
        max_rms_step=rms_step,
        max_rms_parameter=parameter,
    )


def _highest(frame: pd.DataFrame) -> tuple[float, int, str] | None:
    """The largest finite value, its step and its column; None if there is none."""
    values = frame.to_numpy(float)
    finite = np.where(np.isfinite(values), values, -np.inf)
    if not finite.size or not np.isfinite(finite.max()):
        return None
    row, column = np.unravel_index(int(finite.argmax()), finite.shape)
    return float(values[row, column]), int(frame.index.to_numpy()[row]), str(frame.columns[int(column)])


def _median_and_largest(values: Array, steps: NDArray[np.int64]) -> tuple[float | None, float | None, int | None]:
    """The median and the largest finite value with its step."""
    finite = np.isfinite(values)
    if not finite.any():
        return None, None, None
    at = int(np.argmax(np.where(finite, values, -np.inf)))
    return quantile(np.sort(values[finite]), 0.5), float(values[at]), int(steps[at])
