"""Which matrices an update changes out of proportion to others of their type.

Update norm over weight norm differs by type of layer for good reasons. The rows of an embedding are rarely touched and
large, biases begin at 0, gains of norms are few. So a matrix is compared with those of its own type where there are
enough, and else with all but the embeddings.

A rate that is too high or weights that begin too small show in an update that is large beside the *first* weights: with
most optimizers the weights grow until the ratio to their present norm is an ordinary one. Weights that begin too large
show in a small ratio and large entries. The limits are those of benchmarks/updates_by_type.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from gradwatch.record import ParameterInfo

LayerType: TypeAlias = Literal["embedding", "attention", "recurrent", "adapter", "convolution", "matrix"]

TIMES = 10.0  # the median of the others: an update of that size is out of proportion
NOTICED_RATIO = 0.005  # of a parameter's present norm: a smaller update is not told, however small the others are
OF_EMBEDDINGS = 2.0  # times the others, of which those of healthy embeddings reach half
HARDLY, MUCH_LARGER = 1 / 20, 5.0  # times the others' ratio, with entries of so many times theirs
ENOUGH = 3  # others of the same type
NEXT_TO_NOTHING = 1e-3  # of the others' root mean square: the share of so little is not compared

_WORDS: tuple[tuple[LayerType, re.Pattern[str]], ...] = (
    ("adapter", re.compile(r"lora|adapter")),
    ("embedding", re.compile(r"emb|\b(wte|wpe)\b|lookup")),
    ("attention", re.compile(r"att|qkv|\b[qkvo]_proj\b|in_proj")),
    ("recurrent", re.compile(r"weight_[ih]h")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfProportion:
    """A matrix that is changed out of proportion.

    Attributes:
        name: of the parameter.
        ratio: median update over present norm of the weights.
        times: its update over its first norm, divided by the median of the others; of one that hardly changes its
            ratio, divided likewise.
        others: what it was compared with, in words.
        usual: the median ratio of these.
    """

    name: str
    ratio: float
    times: float
    others: str
    usual: float

    @property
    def is_large(self) -> bool:
        return self.times > 1.0


def layer_type(info: ParameterInfo, embeddings: Collection[str] = ()) -> LayerType | None:
    """The type of layer of a parameter, from its shape and its name; None of biases, gains and others of one dimension.

    Args:
        info: the parameter.
        embeddings: names of those that are known to be embeddings.

    >>> [layer_type(ParameterInfo(name=name, shape=(8, 8))) for name in ("h.0.attn.c_proj.weight", "wte.weight")]
    ['attention', 'embedding']
    >>> layer_type(ParameterInfo(name="0.weight", shape=(8, 3, 3, 3))), layer_type(ParameterInfo(name="b", shape=(8,)))
    ('convolution', None)
    """
    if sum(size > 1 for size in info.shape) < 2:
        return None
    if info.name in embeddings:
        return "embedding"
    for found, words in _WORDS:
        if words.search(info.name.lower()):
            return found
    return "convolution" if len(info.shape) > 2 else "matrix"


def out_of_proportion(
    infos: Sequence[ParameterInfo],
    first: pd.Series[float],
    weights: pd.Series[float],
    updates: pd.Series[float],
    embeddings: Collection[str] = (),
) -> tuple[OutOfProportion, ...]:
    """The matrices that an update changes out of proportion, the most extreme first.

    Args:
        infos: the parameters of one optimizer.
        first: L2 norm of each at the first sample, by name.
        weights, updates: later norms, median over samples, by name.
        embeddings: names of those that are known to be embeddings.
    """
    types = {info.name: kind for info in infos if (kind := layer_type(info, embeddings)) and info.name in weights.index}
    names = list(types)
    table = pd.DataFrame({"first": first[names], "weights": weights[names], "updates": updates[names]}).astype(float)
    table["type"] = pd.Series(types)
    table["root"] = np.sqrt([float(info.numel) for info in infos if info.name in types])
    table = table[np.isfinite(table[["first", "weights", "updates"]]).all(axis=1) & (table["weights"] > 0)]
    table = table[table["first"] > NEXT_TO_NOTHING * table["root"] * (table["first"] / table["root"]).median()]
    table["ratio"], table["of_first"] = table["updates"] / table["weights"], table["updates"] / table["first"]
    found = (_judged(str(name), table) for name in table.index)
    return tuple(sorted((one for one in found if one is not None), key=lambda one: -abs(np.log(one.times))))


def _judged(name: str, table: pd.DataFrame) -> OutOfProportion | None:
    own, rest = table.loc[name], table.drop(index=name)
    others, alike = rest[rest["type"] == own["type"]], f"the other {own['type']} weights"
    is_embedding = own["type"] == "embedding"
    if len(others) < ENOUGH:
        others, alike = rest[rest["type"] != "embedding"], "the other matrices"
    if others.empty or not own["updates"] > 0 or not (others["updates"] > 0).any():
        return None
    usual = others[["ratio", "of_first"]].median()
    times = float(own["of_first"] / usual["of_first"]) if usual["of_first"] > 0 else np.inf
    limit = OF_EMBEDDINGS if is_embedding and alike == "the other matrices" else TIMES
    per_entry = (own["updates"] / own["root"]) / (others["updates"] / others["root"]).median()
    if own["ratio"] >= NOTICED_RATIO and times >= limit and (limit == TIMES or per_entry >= TIMES):
        pass
    elif (
        not is_embedding
        and own["ratio"] <= HARDLY * usual["ratio"]
        and own["weights"] / own["root"] >= MUCH_LARGER * (others["weights"] / others["root"]).median()
    ):
        times = float(own["ratio"] / usual["ratio"])
    else:
        return None
    return OutOfProportion(
        name=name, ratio=float(own["ratio"]), times=times, others=alike, usual=float(usual["ratio"])
    )
