"""The shares of the squared norm of parameters, kinds of module and depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from gradwatch.analysis.history import RunReader
from gradwatch.record import Floats, ParameterInfo

Grouping: TypeAlias = Literal["parameter", "kind", "depth"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)

SLICES, ROWS_OF_SLICE = 16, 16
"""The sample of steps for a run's owners: the number of stretches, spread evenly over the run, and their length."""

MAX_NORMS = 2_000_000  # read for it at most, in a very large model from fewer steps
MOST = 3  # owners of each grouping that are kept
DOMINANT = 0.5  # share from which on one part owns most of the norm
FEW_GROUPS = 3  # of fewer, one has most without being remarkable


@dataclass(frozen=True, slots=True, kw_only=True)
class NormOwner:
    """A part of the model with its share of the squared total norm.

    Attributes:
        by: what the parts are: single parameters, kinds of layers, or depths.
        name: of the part.
        share: of the squared norm, the median over the steps that were read.
        last: the same at the last of these steps; None where the norm is 0 or not finite.
        entries: share of the optimizer's entries that the part has.
        groups: how many parts there are.
    """

    by: Grouping
    name: str
    share: float
    last: float | None
    entries: float
    groups: int


def norm_owners(reader: RunReader, optimizer: str) -> tuple[NormOwner, ...]:
    """The parts with the largest shares, `MOST` of each grouping, the largest first; empty without norms of layers.

    Of a long run `SLICES` stretches of `ROWS_OF_SLICE` steps are read, evenly over it.
    """
    infos = reader.parameters(optimizer)
    norms = pd.DataFrame(_sampled_norms(reader, optimizer, len(infos)))
    shares = shares_of(norms)
    shares = shares[shares.notna().all(axis=1)]
    if shares.empty:
        return ()
    sizes = np.array([info.numel for info in infos], float)
    owners = []
    for by in GROUPINGS:
        groups = [group_of(info, by) for info in infos]
        of_groups = grouped(shares, groups)
        medians = of_groups.median()
        for name in medians.sort_values(ascending=False, kind="stable").index[:MOST]:
            own = sizes[[group == name for group in groups]].sum()
            owners.append(
                NormOwner(
                    by=by,
                    name=str(name),
                    share=float(medians[name]),
                    last=float(of_groups[name].iloc[-1]),
                    entries=float(own / max(sizes.sum(), 1.0)),
                    groups=len(medians),
                )
            )
    return tuple(owners)


def _sampled_norms(reader: RunReader, optimizer: str, parameters: int) -> Floats:
    """Norms of evenly spread steps, (steps, parameters)."""
    ids = reader.standing(optimizer)[:, 0]
    rows = max(1, min(ROWS_OF_SLICE, MAX_NORMS // max(1, SLICES * parameters)))
    if len(ids) <= SLICES * rows:
        starts, rows = [0] if len(ids) else [], len(ids)
    else:
        starts = np.linspace(0, len(ids) - rows, SLICES).astype(int).tolist()
    tables = [np.empty((0, parameters), np.float32)]
    for start in starts:
        part = np.sort(ids[start : start + rows])
        found, norms = reader.layer_rows("norm", optimizer, after=int(part[0]) - 1, up_to=int(part[-1]))
        tables.append(norms[np.isin(found, part)])
    return np.concatenate(tables)


def dominant(owners: Sequence[NormOwner]) -> tuple[NormOwner, ...]:
    """Of each grouping the part that owns most of the norm, if one does and it says more than the grouping before.

    >>> from dataclasses import replace
    >>> head = NormOwner(by="parameter", name="head.weight", share=0.9, last=0.9, entries=0.2, groups=40)
    >>> [owner.name for owner in dominant([head, replace(head, by="kind", name="head")])]
    ['head.weight']
    """
    found: list[NormOwner] = []
    for owner in owners:
        is_known = any(one.by == owner.by or abs(one.share - owner.share) < 0.01 for one in found)
        if owner.share >= DOMINANT and owner.groups >= FEW_GROUPS and not is_known:
            found.append(owner)
    return tuple(found)


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
    places = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    codes = np.array([places[name] for name in groups], np.int64)
    order = np.argsort(codes, kind="stable")  # the columns of a group side by side
    starts = np.searchsorted(codes[order], np.arange(len(places)))
    sums = np.add.reduceat(shares.to_numpy(float)[:, order], starts, axis=1) if places else np.empty((len(shares), 0))
    return pd.DataFrame(sums, index=shares.index, columns=list(places))


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
    numbered = [at for at, part in enumerate(path) if part.isdecimal()]
    if grouping == "depth":
        if not numbered:
            return ".".join(path)
        at = numbered[0]
        return ".".join(path[max(0, at - 1) : at + 1])
    if not numbered:
        return ".".join(path)
    inside = [part for part in path[numbered[0] + 1 :] if not part.isdecimal()]
    return ".".join(inside) or ".".join(path[: numbered[0]]) or "(top)"
