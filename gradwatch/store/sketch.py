"""A sketch of the norms of each parameter, from which quantiles follow.

It is a DDSketch (Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", section 2): norms are counted in bins whose ends are powers of ``(1 + a) / (1 - a)``, so
the middle of a bin is within the share ``a`` of each norm in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACCURACY = 0.01
"""The largest error of a quantile, as a share of it."""

SLICE = 1024
"""Parameters that are digested at once."""

MAX_TABLE = 1_000_000
"""Counts of the table in which sketches are merged."""

_AT_ONCE = 16
"""Sketches that are merged at once."""

_LOG_GAMMA = math.log1p(ACCURACY) - math.log1p(-ACCURACY)

_ZERO = -(2**15)
"""The bin of norms that are 0."""


def bins_of(norms: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The bin of each norm, which must be finite and not negative.

    >>> bins_of(np.array([1.0, 1.01, 0.0])).tolist()
    [0, 1, -32768]
    """
    with np.errstate(divide="ignore"):
        places = np.log(norms.astype(np.float64))
    places /= _LOG_GAMMA
    np.ceil(places, out=places)
    places[~(norms > 0)] = _ZERO
    bins: NDArray[np.int64] = places.astype(np.int64)
    return bins


def middles(bins: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The value that stands for the norms of each bin.

    >>> middles(bins_of(np.array([3.0]))).round(1).tolist()
    [3.0]
    """
    to_middle = math.log(2 / (math.exp(_LOG_GAMMA) + 1))  # in the exponent, where the largest norms do not overflow
    values: NDArray[np.float64] = np.where(bins == _ZERO, 0.0, np.exp(bins * _LOG_GAMMA + to_middle))
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """How many norms of each parameter lie in each bin, sorted by parameter and bin; arrays of one entry a count."""

    parameter: NDArray[np.integer[Any]]
    bin: NDArray[np.integer[Any]]
    count: NDArray[np.integer[Any]]

    @classmethod
    def merged(cls, sketches: Sequence[Sketch]) -> Sketch:
        """The sketch of all norms of several sketches.

        >>> one = Sketch.of_keys(key_of(np.array([0, 1]), bins_of(np.array([1.0, 2.0]))))
        >>> Sketch.merged([one, one]).count.tolist()
        [2, 2]
        """
        some = [sketch for sketch in sketches if len(sketch.bin)]
        last = max((int(sketch.parameter[-1]) for sketch in some), default=0)
        if last >= SLICE:
            begins = range(0, last + 1, SLICE)
            return cls.side_by_side(begins, [cls.merged([sketch._slice(at) for sketch in some]) for at in begins])
        table = _table_for(some)
        if table is not None:
            return cls._in_table(some, *table)
        if len(some) > _AT_ONCE:  # so that little memory is taken
            few = _AT_ONCE - 1
            parts = [some[at : at + few] for at in range(0, len(some), few)]
            return functools.reduce(lambda sofar, part: cls.merged([sofar, *part]), parts[1:], cls.merged(parts[0]))
        keys = np.concatenate([np.empty(0, np.int64), *(key_of(s.parameter, s.bin) for s in some)])
        counts = np.concatenate([np.empty(0, np.int64), *(s.count for s in some)])
        found, at = np.unique(keys, return_inverse=True)
        return cls._of(found, np.bincount(at, counts, len(found)).astype(np.int64))

    @classmethod
    def side_by_side(cls, begins: Iterable[int], sketches: Sequence[Sketch]) -> Sketch:
        """The sketch of the parameters of all, of which each one's begin there."""
        owners = [sketch.parameter.astype(np.int64) + at for at, sketch in zip(begins, sketches, strict=True)]
        return cls(
            parameter=np.concatenate(owners),
            bin=np.concatenate([sketch.bin for sketch in sketches]),
            count=np.concatenate([sketch.count for sketch in sketches]),
        )

    def _slice(self, begin: int) -> Sketch:
        """`SLICE` parameters, counted from the first of them."""
        # Of its own kind, or the whole array would be converted for each slice.
        first, end = np.searchsorted(self.parameter, np.array([begin, begin + SLICE], self.parameter.dtype))
        own = slice(int(first), int(end))
        return Sketch(parameter=self.parameter[own] - begin, bin=self.bin[own], count=self.count[own])

    @classmethod
    def _in_table(cls, sketches: Sequence[Sketch], parameters: int, low: int, high: int) -> Sketch:
        """`merged`, counted in a table of every bin of every parameter; its first column has the norms that are 0."""
        width = high - low + 2
        columns = [np.maximum(sketch.bin.astype(np.int64) - (low - 1), 0) for sketch in sketches]
        places = [sketch.parameter * np.int64(width) + own for sketch, own in zip(sketches, columns, strict=True)]
        counts = np.concatenate([sketch.count for sketch in sketches])
        table = np.bincount(np.concatenate(places), counts, parameters * width).astype(np.int64)
        filled = np.flatnonzero(table)
        parameter, column = np.divmod(filled, width)
        bins = np.where(column == 0, _ZERO, column + (low - 1))
        return cls(parameter=parameter, bin=bins, count=table[filled])

    @classmethod
    def of_keys(cls, keys: NDArray[np.integer[Any]]) -> Sketch:
        return cls._of(*np.unique(keys, return_counts=True))

    @classmethod
    def _of(cls, keys: NDArray[np.integer[Any]], counts: NDArray[np.integer[Any]]) -> Sketch:
        return cls(parameter=keys >> 16, bin=(keys & 0xFFFF) + _ZERO, count=counts)

    def compact(self) -> Sketch:
        """The same in a third of the memory."""
        kinds = (("parameter", np.int32), ("bin", np.int16), ("count", np.int32))
        return Sketch(**{name: getattr(self, name).astype(kind) for name, kind in kinds})

    def quantile(self, share: float, parameters: int) -> NDArray[np.float64]:
        """A quantile of the norms of each parameter, (parameters,), within `ACCURACY` of it; NaN of no norm."""
        totals = np.bincount(self.parameter, self.count, parameters)[:parameters]
        found = np.full(parameters, np.nan)
        if not len(self.count):
            return found
        # Between the two norms beside its place, as `numpy.quantile`: what lies between two values that are each within
        # a share of theirs is within that share of what lies between those.
        before = np.concatenate([[0.0], np.cumsum(totals)])[:-1]
        places = share * np.maximum(totals - 1, 0)
        ends = np.cumsum(self.count)
        last = len(ends) - 1
        low, high = (
            middles(self.bin[np.minimum(np.searchsorted(ends, before + rank + 1), last)])
            for rank in (np.floor(places), np.ceil(places))
        )
        there = totals > 0
        found[there] = (low + (high - low) * (places - np.floor(places)))[there]
        return found


def _table_for(sketches: Sequence[Sketch]) -> tuple[int, int, int] | None:
    """How many parameters there are, and the least and the largest bin; None where a table of them would be large."""
    parameters = max((int(sketch.parameter[-1]) + 1 for sketch in sketches), default=0)
    low = min((int(sketch.bin.min(where=sketch.bin != _ZERO, initial=0)) for sketch in sketches), default=0)
    high = max((int(sketch.bin.max(initial=0)) for sketch in sketches), default=0)
    return (parameters, low, high) if sketches and parameters * (high - low + 2) <= MAX_TABLE else None


def key_of(parameters: NDArray[np.integer[Any]], bins: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Parameter and bin as one number."""
    return (parameters.astype(np.int64) << 16) + (bins.astype(np.int64) - _ZERO)
