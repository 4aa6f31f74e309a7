"""Who owns the norm: the share of the squared norm that parameters, kinds of module and depths have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from gradwatch.record import ParameterInfo

Grouping: TypeAlias = Literal["parameter", "kind", "depth"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)


def shares_of(norms: pd.DataFrame) -> pd.DataFrame:
    """The share of the squared norm of each step that each parameter has, (steps, parameters).

    A parameter without a gradient has 0; NaN throughout where the norm of a step is 0 or not finite.

    >>> shares_of(pd.DataFrame({"a": [3.0, 0.0], "b": [4.0, 0.0]})).round(2).to_numpy().tolist()
    [[0.36, 0.64], [nan, nan]]
    """
    table = norms.to_numpy(float)
    # Divided by the largest first, so that squares neither overflow nor vanish.
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.nan_to_num(
            np.square(table / np.nanmax(np.abs(table), axis=1, initial=0.0, keepdims=True)), nan=0.0
        )
        totals = squares.sum(axis=1, keepdims=True)
        shares = np.where(np.isfinite(totals) & (totals > 0), squares / totals, np.nan)
    shares[np.isinf(table).any(axis=1)] = np.nan
    return pd.DataFrame(shares, index=norms.index, columns=norms.columns)


def grouped(shares: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """The shares of groups of columns, named in ``groups`` for each column, in the order in which they come."""
    names = list(dict.fromkeys(groups))
    columns = {name: shares.loc[:, [group == name for group in groups]].sum(axis=1, skipna=False) for name in names}
    return pd.DataFrame(columns, index=shares.index)


def group_of(info: ParameterInfo, grouping: Grouping) -> str:
    """The group of a parameter, by its name.

    >>> info = ParameterInfo(name="transformer.h.11.attn.c_proj.weight", shape=(4, 4))
    >>> group_of(info, "kind"), group_of(info, "depth")
    ('attn.c_proj', 'h.11')
    >>> group_of(ParameterInfo(name="lm_head.weight", shape=(4, 4)), "depth")
    'lm_head'
    """
    if grouping == "parameter":
        return info.name
    path = info.name.split(".")[:-1] or [info.name]
    numbered = [at for at, part in enumerate(path) if re.fullmatch(r"\d+", part)]
    if grouping == "depth":
        if not numbered:
            return ".".join(path)
        at = numbered[0]
        return ".".join(path[max(0, at - 1) : at + 1])
    if not numbered:
        return ".".join(path)
    inside = [part for part in path[numbered[0] + 1 :] if not part.isdecimal()]
    return ".".join(inside) or ".".join(path[: numbered[0]]) or "(top)"
