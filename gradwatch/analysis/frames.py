"""Columns of the store as pandas frames, and which of several records of one step stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def steps_frame(columns: Mapping[str, NDArray[Any]], entries: Mapping[str, int]) -> pd.DataFrame:
    """The frame of `RunReader.steps`, still with ``id`` as a column and with the rows that were replaced.

    Args:
        columns: table ``step`` by column, as `StoreReader.step_arrays` gives it.
        entries: number of entries over all parameters of each optimizer, for the share that was cut.
    """
    columns = dict(columns)
    rates = columns.pop("learning_rates")
    texts = {name: columns.pop(name) for name in ("optimizer", "clip_fault")}
    frame = pd.DataFrame(columns, copy=False)
    for name, column in texts.items():
        frame[name] = pd.Series(column, dtype=object if set(column) <= {None} else "str")
    frame["skipped"] = frame["skipped"].astype(bool)
    cut = frame.pop("cut_entries")
    frame["clipped"] = ~(frame["clip_coef"] >= 1.0) | (cut > 0)
    frame["cut_fraction"] = cut / _of_each(frame["optimizer"], entries)
    frame["clipped_fraction"] = frame["cut_fraction"]
    frame["update_ratio"] = frame["update_norm"] / frame["weight_norm"].where(frame["weight_norm"] != 0)
    for group, values in _further_rates(rates).items():
        frame[f"learning_rate_{group}"] = values
    return frame


def indexed_by_step(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of `steps_frame` without replaced rows, indexed by step, its columns in the documented order."""
    if frame["attempt"].nunique() > 1:
        groups = [group[["id", "step", "attempt"]].to_numpy(np.int64) for _, group in frame.groupby("optimizer")]
        standing = np.concatenate([standing_rows(rows)[:, 0] for rows in groups])
        frame = frame[frame["id"].isin(standing)].sort_values(["step", "id"])
    return frame.set_index("step")[_ordered(frame.columns)]


def standing_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that no later attempt at their step replaced; (rows, 3) of id, step and attempt, ordered by id.

    >>> standing_rows(np.array([[1, 0, 0], [2, 1, 0], [3, 1, 1]])).tolist()
    [[1, 0, 0], [3, 1, 1]]
    """
    if not len(rows) or rows[-1, 2] == rows[0, 2]:
        return rows
    order = np.lexsort((rows[:, 0], rows[:, 2], rows[:, 1]))
    last = np.append(rows[order[1:], 1] != rows[order[:-1], 1], True)
    standing: NDArray[np.int64] = rows[np.sort(order[last])]
    return standing


def _of_each(optimizers: pd.Series[str], entries: Mapping[str, int]) -> NDArray[np.float64]:
    """The number of entries of the optimizer of each row; NaN where it is not known."""
    found = np.full(len(optimizers), np.nan)
    for name, number in entries.items():
        found[(optimizers == name).to_numpy()] = number
    return found


def _further_rates(rates: NDArray[Any]) -> dict[int, list[float]]:
    """The learning rates of every parameter group after the first, by group."""
    if not any(set(rates.tolist())):
        return {}
    parsed = [json.loads(text) if text else [] for text in rates]
    groups = max((len(row) for row in parsed), default=0)
    return {g: [row[g] if len(row) > g else np.nan for row in parsed] for g in range(1, groups)}


def _ordered(columns: pd.Index[str]) -> list[str]:
    first = [
        "total_norm",
        "max_norm",
        "norm_type",
        "clip_value",
        "clip_coef",
        "clipped",
        "cut_fraction",
        "clipped_fraction",
        "nonfinite",
        "loss",
        "loss_logged",
    ]
    rates = [name for name in columns if name.startswith("learning_rate")]
    updates = ["update_norm", "weight_norm", "update_ratio"]
    return [*first, *rates, "loss_scale", "skipped", "clip_fault", *updates, "wall_time", "attempt", "optimizer"]
