"""Which matrices an update changes out of proportion to others of their type.

Update norm over weight norm differs by type of layer for good reasons. The rows of an embedding are rarely touched and
large, biases begin at 0, gains of norms are few. So a matrix is compared with those of its own type where there are
enough, and else with all but the embeddings.

A rate that is too high or weights that begin too small show in an update that is large beside the *first* weights: with
most optimizers the weights grow until the ratio to their present norm is an ordinary one. Weights that begin too large
show in a small ratio and large entries.

The limits were chosen on four tasks of the detection corpus (characters by a transformer and an LSTM, digits by an MLP
and a CNN; 150 steps of AdamW and of SGD with momentum): 27 of 38 planted faults told, none in 40 healthy twins. Fixed,
they told 29 of 52 on five other tasks, and nothing in 50 twins (rates by type and by depth, frozen parts, adapters).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array
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
    if len(info.shape) < 2 or (len(info.shape) > 2 and sum(size > 1 for size in info.shape) < 2):
        return None  # a token of shape (1, 1, n) too
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
        weights: later norms, median over samples, by name.
        updates: those of the updates, likewise.
        embeddings: names of those that are known to be embeddings.
    """
    kinds = np.array([layer_type(info, embeddings) or "" for info in infos])
    names = np.array([info.name for info in infos], object)
    root = np.sqrt([float(info.numel) for info in infos])
    began, weight, update = (norms.reindex(names).to_numpy(float) for norms in (first, weights, updates))
    begins = began / root
    kept = (kinds != "") & np.isfinite(began) & np.isfinite(update) & np.isfinite(weight) & (weight > 0)
    kept &= begins > NEXT_TO_NOTHING * np.median(begins[kept]) if kept.any() else kept
    kinds, names, root, began, weight, update = (values[kept] for values in (kinds, names, root, began, weight, update))
    ratio = update / weight
    quantities = np.stack([ratio, update / began, weight / root, update / root])
    usual, has_own = _usual(quantities, kinds)
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing else moves, nothing is out of proportion
        of_ratio, of_first, of_entry, of_move = np.where(usual[0] > 0, quantities / usual, np.nan)
    is_embedding = kinds == "embedding"
    # An embedding may begin smaller than the rest, but then its entries move no further than those of others.
    limit = np.where(is_embedding & ~has_own, np.where(of_move >= TIMES, OF_EMBEDDINGS, np.inf), TIMES)
    is_large = (ratio >= NOTICED_RATIO) & (of_first >= limit)
    is_small = ~is_embedding & (of_ratio > 0) & (of_ratio <= HARDLY) & (of_entry >= MUCH_LARGER)
    times = np.where(is_large, of_first, of_ratio)
    found = [
        OutOfProportion(
            name=str(names[at]),
            ratio=float(ratio[at]),
            times=float(times[at]),
            others=f"the other {kinds[at]} weights" if has_own[at] else "the other matrices",
            usual=float(usual[0, at]),
        )
        for at in np.flatnonzero(is_large | is_small)
    ]
    return tuple(sorted(found, key=lambda one: -abs(math.log(one.times))))


def _usual(quantities: Array, kinds: NDArray[np.str_]) -> tuple[Array, NDArray[np.bool_]]:
    """The medians of what each matrix is compared with, (quantities, matrices), and whether that is its own type."""
    usual, has_own = np.full_like(quantities, np.nan), np.zeros(len(kinds), bool)
    is_plain = kinds != "embedding"
    usual[:, is_plain] = median_of_others(quantities[:, is_plain])
    if is_plain.any():
        usual[:, ~is_plain] = np.median(quantities[:, is_plain], axis=1, keepdims=True)
    for kind in np.unique(kinds):
        own = kinds == kind
        if own.sum() > ENOUGH:
            usual[:, own], has_own[own] = median_of_others(quantities[:, own]), True
    return usual, has_own


def median_of_others(values: Array) -> Array:
    """For each value the median of the others in its row, of the same shape; NaN where there is no other.

    >>> median_of_others(np.array([[1.0, 2.0, 10.0]])).tolist()
    [[6.0, 5.5, 1.5]]
    """
    count = values.shape[1] - 1
    if count < 1:
        return np.full_like(values, np.nan)
    order = np.argsort(values, axis=1)
    ranks, ordered = np.argsort(order, axis=1), np.take_along_axis(values, order, axis=1)
    places = ((count - 1) // 2, count // 2)
    # The place among the others, which one more stands before where this value does.
    both = [np.take_along_axis(ordered, place + (ranks <= place), axis=1) for place in places]
    return np.asarray((both[0] + both[1]) / 2)
