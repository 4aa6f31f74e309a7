"""Columns of the store as pandas frames, and which of several records of one step stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.store.columns import each, is_of_one_value

CHUNK = 4096  # texts


def steps_frame(columns: Mapping[str, NDArray[Any]], entries: Mapping[str, int]) -> pd.DataFrame:
    """The frame of `RunReader.steps`, still with ``id`` as a column and with the rows that were replaced.

    Args:
        columns: table ``step`` by column, as `StoreReader.step_arrays` gives it.
        entries: number of entries over all parameters of each optimizer, for the share that was cut.
    """
    columns = dict(columns)
    rates = columns.pop("learning_rates")
    texts = {name: columns.pop(name) for name in ("optimizer", "clip_fault")}
    cut, coef = columns.pop("cut_entries"), columns["clip_coef"]
    columns["skipped"] = each(lambda skipped: skipped.astype(bool), columns["skipped"])
    columns["clipped"] = each(lambda coef, cut: ~(coef >= 1.0) | (cut > 0), coef, cut)
    columns["cut_fraction"] = each(_over_unless_0, cut, _of_each(texts["optimizer"], entries))
    columns["clipped_fraction"] = columns["cut_fraction"]
    columns["update_ratio"] = each(_over_unless_0, columns["update_norm"], columns["weight_norm"])
    frame = pd.DataFrame(columns, copy=False)
    for name, column in texts.items():
        frame[name] = _texts(column)
    for group, values in _further_rates(rates).items():
        frame[f"learning_rate_{group}"] = values
    return frame


def _over_unless_0(values: NDArray[Any], by: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        ratio: NDArray[np.float64] = np.divide(values, by, out=np.full(len(values), np.nan), where=by != 0)
    return ratio


def _texts(column: NDArray[Any]) -> pd.Series[Any]:
    """Texts as a column of a frame, as objects where there is none."""
    if not is_of_one_value(column):
        return pd.Series(column, dtype=object if set(column) <= {None} else "str")
    if column[0] is None:
        return pd.Series(column, dtype=object, copy=False)
    chunk = pd.Series(column[:CHUNK], dtype="str")
    kind = chunk.dtype
    if isinstance(kind, pd.StringDtype) and kind.storage == "python":  # without pyarrow
        return pd.Series(pd.array(column, kind, copy=False), copy=False)
    # Of chunks that are one and the same, so that they take the memory of one.
    chunks = [chunk] * (len(column) // CHUNK)
    return pd.concat([*chunks, chunk[: len(column) % CHUNK]], ignore_index=True)


def known_values(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """The values of a column that are known; of one value for all steps only that.

    >>> known_values(pd.DataFrame({"loss": [2.0, np.nan]}), "loss").tolist()
    [2.0]
    """
    values: NDArray[np.float64] = frame[name].to_numpy(float)
    few = values[:1] if is_of_one_value(values) else values
    is_known = ~np.isnan(few)
    return few if is_known.all() else few[is_known]


def is_nonfinite(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether a gradient or the total norm of each step is NaN or infinite; a norm that is not known is neither.

    >>> is_nonfinite(pd.DataFrame({"total_norm": [1.0, np.nan, np.nan, np.inf], "nonfinite": [0, 1, 0, 0]})).tolist()
    [False, True, False, True]
    """
    found: NDArray[np.bool_] = (frame["nonfinite"].to_numpy() > 0) | np.isinf(frame["total_norm"].to_numpy(float))
    return found


def is_loss_nonfinite(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether a loss was logged at each step that is NaN or infinite.

    >>> is_loss_nonfinite(pd.DataFrame({"loss": [2.0, np.nan, np.nan], "loss_logged": [True, True, False]})).tolist()
    [False, True, False]
    """
    found: NDArray[np.bool_] = frame["loss_logged"].to_numpy(bool) & ~np.isfinite(frame["loss"].to_numpy(float))
    return found


def indexed_by_step(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of `steps_frame` without replaced rows, indexed by step, its columns in the documented order."""
    attempts = frame["attempt"].to_numpy()
    if len(attempts) and attempts.min() < attempts.max():
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


def _of_each(optimizers: NDArray[Any], entries: Mapping[str, int]) -> NDArray[np.float64]:
    """The number of entries of the optimizer of each row; NaN where it is not known."""

    def numbers(names: NDArray[Any]) -> NDArray[np.float64]:
        found = np.full(len(names), np.nan)
        for name, number in entries.items():
            found[np.asarray(names == name, bool)] = number
        return found

    return each(numbers, optimizers)


def _further_rates(rates: NDArray[Any]) -> dict[int, Any]:
    """The learning rates of every parameter group after the first, by group."""
    if not any(set(rates[:1] if is_of_one_value(rates) else rates.tolist())):
        return {}
    if is_of_one_value(rates):
        return {g: np.broadcast_to(rate, len(rates)) for g, rate in enumerate(json.loads(rates[0])) if g}
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
