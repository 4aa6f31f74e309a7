"""Tables of the store, one column for each parameter or rank, as frames by step or as slices of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.frames import standing_rows
from gradwatch.record import Floats, WeightStats
from gradwatch.store import StoreReader

Rows: TypeAlias = NDArray[np.int64]
"""Id and step of each row, (rows, 2)."""

Read: TypeAlias = Callable[[str, str, int], tuple[Rows, Floats]]
"""Reads a statistic of an optimizer, every k-th row: `StoreReader.layer_table` or `StoreReader.update_table`."""


def parameter_frame(store: StoreReader, read: Read, stat: str, optimizer: str, one_of: int) -> pd.DataFrame:
    """One statistic of each parameter of an optimizer, (steps, parameters), without rows that were replaced."""
    if stat == "update_ratio":
        weight = parameter_frame(store, read, "weight_norm", optimizer, one_of)
        return parameter_frame(store, read, "update_norm", optimizer, one_of) / weight.where(weight != 0)
    rows, table = standing_of(store, *read(stat, optimizer, one_of), optimizer)
    names = [info.name for info in store.parameters(optimizer)]
    index = pd.Index(rows[:, 1], name="step")
    if not len(rows):  # a store from before this statistic
        return pd.DataFrame(np.empty((0, len(names)), np.float32), index=index, columns=names)
    frame = pd.DataFrame(table, index=index, columns=names, copy=False)
    return frame if frame.index.is_monotonic_increasing else frame.sort_index(kind="stable")


def sentinel_frame(
    store: StoreReader, stat: str, optimizer: str, *, after: int = 0, up_to: int | None = None
) -> pd.DataFrame:
    """One statistic of the sentinels at every step at which they or all parameters were read, (steps, sentinels).

    Only of rows with ``after < id <= up_to``.
    """
    if stat == "update_ratio":
        weight = sentinel_frame(store, "weight_norm", optimizer, after=after, up_to=up_to)
        update = sentinel_frame(store, "update_norm", optimizer, after=after, up_to=up_to)
        return update / weight.where(weight != 0)
    rows, positions, table = store.sentinel_table(stat, optimizer, after=after, up_to=up_to)
    rows, table = standing_of(store, rows, table, optimizer)
    infos = store.parameters(optimizer)
    few = pd.DataFrame(table, index=pd.Index(rows[:, 1], name="step"), columns=[infos[at].name for at in positions])
    if not len(positions):
        return few
    read = partial(store.update_table, after=after, up_to=up_to)
    every = parameter_frame(store, read, stat, optimizer, 1)
    return pd.concat([few, every.iloc[:, positions]]).sort_index(kind="stable")


def numbered_frame(store: StoreReader, rows: Rows, table: Floats, optimizer: str) -> pd.DataFrame:
    """A table whose columns are numbered, such as those of ranks, without rows that were replaced."""
    rows, table = standing_of(store, rows, table, optimizer)
    return pd.DataFrame(table, index=pd.Index(rows[:, 1], name="step"), columns=range(table.shape[1]))


def standing_of(store: StoreReader, rows: Rows, table: Floats, optimizer: str) -> tuple[Rows, Floats]:
    """Leave out the rows that a later attempt replaced."""
    if store.last_attempt():
        stands = np.isin(rows[:, 0], standing_rows(store.step_ids(optimizer))[:, 0])
        rows, table = rows[stands], table[stands]
    return rows, table


def side_by_side(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The frames of several optimizers as one; a parameter that two of them have is the first one's.

    >>> first, second = pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": [2.0], "b": [3.0]})
    >>> side_by_side([first, second]).to_dict("list")
    {'a': [1.0], 'b': [3.0]}
    """
    if not frames:  # no row of any optimizer is intact
        return pd.DataFrame(index=pd.Index([], dtype=np.int64, name="step"), dtype=np.float32)
    frame = pd.concat(frames, axis=1) if len(frames) > 1 else frames[0]
    return frame.loc[:, ~frame.columns.duplicated()]


def slice_of(
    store: StoreReader, stat: str, optimizer: str, *, after: int, up_to: int | None, most: int
) -> tuple[NDArray[np.int64], Floats]:
    """Ids and values of a slice of rows as they were written, see `RunReader.layer_rows`."""
    if stat.startswith("rank_"):
        keys, table = store.rank_table(stat.removeprefix("rank_"), optimizer, after=after, up_to=up_to, most=most)
    elif stat == "rms_ratio" or stat.startswith("computed_"):
        own = stat.removeprefix("computed_")
        keys, table = store.update_table(own, optimizer, after=after, up_to=up_to, most=most)
    elif stat == "update_ratio":
        keys, weight = store.layer_table("weight_norm", optimizer, after=after, up_to=up_to, most=most)
        others, update = store.layer_table("update_norm", optimizer, after=after, up_to=up_to, most=most)
        ids, left, right = np.intersect1d(keys[:, 0], others[:, 0], assume_unique=True, return_indices=True)
        return ids, WeightStats(weight_norm=weight[left], update_norm=update[right]).update_ratio
    else:
        keys, table = store.layer_table(stat, optimizer, after=after, up_to=up_to, most=most)
    return keys[:, 0], table
