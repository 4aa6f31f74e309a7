"""Digests of many rows, with which a reader can summarise a long run without reading every row.

A digest covers consecutive rows of one optimizer. Its first blob has the columns of table ``step``. The second has for
each parameter of table ``layer``: the largest values of every `GROUP` rows, where and how large the largest norm was,
and a sketch of all norms. Each is a line of JSON, then the arrays in it as bytes.

The sketch is a DDSketch (Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", section 2): norms are counted in bins whose ends are powers of ``(1 + a) / (1 - a)``, so
the middle of a bin is within the share ``a`` of each norm in it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import STATS, Floats, StepRecord
from gradwatch.store.schema import STEP_COLUMNS

ROWS = 4096
"""Rows of a digest."""

MANY_ROWS = 50_000
"""Rows from which on digests are read, so that the last rows of a run get one as well, however few they are."""

MANY_ENTRIES = 50_000_000
"""Norms of layers from which on digests are read in place of them: of a wide model, those of fewer rows."""

WIDE = 1024
"""Parameters of a wide model; of one with more, the last rows without a digest are long to read."""

EARLY_ROWS = 1024
"""Rows of a wide model after which the digest that is begun is written, in place of the one written before; whole
groups."""

GROUP = 64
"""Rows that share one largest value."""

ACCURACY = 0.01
"""The largest error of a quantile, as a share of it."""

ABSENT = -1.0
"""Code of a value that is not known, for example of a parameter without a gradient. Statistics are never negative."""

NOT_FINITE = np.inf
"""Code of a gradient that holds NaN or infinity. It is larger than every value."""

_LOG_GAMMA = math.log1p(ACCURACY) - math.log1p(-ACCURACY)
_ZERO = -(2**15)
"""The bin of norms that are 0."""

_AT_ONCE = 16
"""Sketches that are merged at once."""

MAX_TABLE = 1_000_000
"""Counts of the table in which sketches are merged."""

MAX_PARAMETERS = 32_768
"""Of a model whose layers are digested: those of a larger one would take the recorder's thread 2 ms a step, and
a quarter of a gigabyte."""

SLICE = 1024
"""Parameters that are digested at once."""

MAX_KEYS = 250_000
"""Norms of a slice that wait to be counted in bins."""

WHOLE = ("id", "step", "attempt", "nonfinite", "skipped")
REAL = (
    "wall_time",
    "total_norm",
    "max_norm",
    "norm_type",
    "clip_value",
    "clip_coef",
    "cut_entries",
    "loss",
    "learning_rate",
    "loss_scale",
    "update_norm",
    "weight_norm",
)
TEXTS = ("optimizer", "learning_rates", "clip_fault")
LOGGED = "loss_logged"
"""Whether a loss was logged. Here NaN stands for null, and this tells a loss that is NaN from none."""

Columns: TypeAlias = dict[str, NDArray[Any]]


def is_of_one_value(column: NDArray[Any]) -> bool:
    """Whether a column is held as one value: most of a long run's are, and so take no memory.

    >>> is_of_one_value(np.broadcast_to(np.array(2.0), 3)), is_of_one_value(np.array([2.0, 2.0]))
    (True, False)
    """
    return column.ndim == 1 and len(column) > 1 and column.strides == (0,)


def each(function: Callable[..., NDArray[Any]], *columns: NDArray[Any]) -> NDArray[Any]:
    """A function of the entries of columns, computed once where each column is of one value.

    >>> is_of_one_value(each(np.sqrt, np.broadcast_to(np.array(4.0), 3)))
    True
    """
    if columns and all(map(is_of_one_value, columns)):
        return np.broadcast_to(function(*(column[:1] for column in columns)), columns[0].shape)
    return function(*columns)


def equals(texts: NDArray[Any], text: str) -> NDArray[np.bool_]:
    """Which entries of a column of texts are this one."""
    return each(lambda found: np.asarray(found == text, bool), texts)


class JoinedColumn:
    """A column whose parts come one after the other; of one value as long as all parts have the same.

    >>> column = JoinedColumn(4)
    >>> column.extend(np.broadcast_to(np.array(1.0), 3))
    >>> is_of_one_value(column.whole())
    True
    >>> column.extend(np.array([2.0, 3.0]))
    >>> column.whole().tolist()
    [1.0, 1.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, room: int, table: NDArray[Any] | None = None) -> None:
        self._room, self._rows = room, 0
        self._value: NDArray[Any] | None = None  # of all rows so far, (1,)
        self._table = table

    def extend(self, part: NDArray[Any]) -> None:
        if not self._rows and is_of_one_value(part):
            self._value = part[:1].copy()
        if self._value is None or not _holds_only(part, self._value[0]):
            table = self._with_room(self._rows + len(part), part.dtype)
            table[self._rows : self._rows + len(part)] = part
        self._rows += len(part)

    def whole(self) -> NDArray[Any]:
        if self._value is not None:
            return np.broadcast_to(self._value, self._rows)
        assert self._table is not None
        return self._table[: self._rows]

    def _with_room(self, rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
        """The table with room for this many rows. Memory that is never written to is not taken."""
        before = self._table if self._value is None else self._value
        if self._table is None or rows > len(self._table):
            held = 0 if self._table is None else len(self._table)
            self._table = np.empty(max(rows, self._room, 2 * held), kind)
        if before is not None and before is not self._table:
            self._table[: self._rows] = before[: self._rows]
        self._value = None
        return self._table


def _holds_only(column: NDArray[Any], value: Any) -> bool:
    few = column[:1] if is_of_one_value(column) else column
    is_nan = isinstance(value, np.floating) and np.isnan(value)
    return bool(np.isnan(few).all() if is_nan else (few == value).all())


def encode(values: Floats, nonfinite: Floats | None) -> Floats:
    """Replace NaN by `NOT_FINITE` or `ABSENT`, so that maxima can be taken.

    Args:
        values: of a statistic, NaN where a gradient was absent or not finite.
        nonfinite: the gradient's entries that are not finite, NaN where there was no gradient. If it is
            None, the count is not known and NaN is taken for an absent gradient.

    >>> encode(np.array([1, np.nan, np.nan], np.float32), np.array([0, 2, np.nan], np.float32)).tolist()
    [1.0, inf, -1.0]
    """
    codes: Floats = np.where(np.isnan(values), np.float32(ABSENT), values)
    if nonfinite is not None:
        codes[nonfinite > 0] = NOT_FINITE
    return codes


# --------------------------------------------------------------------------------------- the sketch


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

        >>> one = Sketch.of_keys(_keys(np.float32([[1.0, 2.0]])))
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
        keys = np.concatenate([np.empty(0, np.int64), *(_key(s.parameter, s.bin) for s in some)])
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


def _key(parameters: NDArray[np.integer[Any]], bins: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Parameter and bin as one number."""
    return (parameters.astype(np.int64) << 16) + (bins.astype(np.int64) - _ZERO)


def _keys(codes: Floats) -> NDArray[np.int64]:
    """Parameter and bin of each finite norm as one number, of coded norms (rows, parameters)."""
    counted = (codes >= 0) & (codes != NOT_FINITE)
    parameters = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)[counted]
    return _key(parameters, bins_of(codes[counted]))


# ------------------------------------------------------------------------------ digests of layers


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDigest:
    """The gradients of rows in table ``layer``, coded as by `encode`.

    Attributes:
        rows: how many.
        maxima: by statistic, the largest of every `GROUP` rows, (groups, parameters).
        high: the largest finite norm of each parameter, (parameters,), `ABSENT` if it has none.
        high_row: the row of it, counted from 0; -1.
        bad: rows whose gradient is not finite, (parameters,).
        absent: rows without a gradient, (parameters,).
        zeros: the sum of entries that are exactly 0, (parameters,).
        zeros_known: rows with such a number, (parameters,).
        sketch: of the finite norms.
    """

    rows: int
    maxima: Mapping[str, Floats]
    high: Floats
    high_row: NDArray[np.int64]
    bad: NDArray[np.int64]
    absent: NDArray[np.int64]
    zeros: NDArray[np.float64]
    zeros_known: NDArray[np.int64]
    sketch: Sketch


class LayerDigester:
    """Makes a `LayerDigest` of rows that come a few at a time; holds no more than `GROUP` of them.

    The parameters are digested `SLICE` at a time, whose tables stay in the caches. A row of 10,000 parameters takes
    0.45 ms so, and the digest 73 MB; all at once took 0.91 ms and 144 MB (benchmarks/wide_digests.txt).
    """

    def __init__(self, parameters: int, stats: Sequence[str]) -> None:
        self.parameters, self.stats = parameters, tuple(stats)
        self._waiting: list[Sequence[Floats]] = []
        begins = range(0, parameters, SLICE) or (0,)
        self._slices = [(begin, _SliceDigester(min(SLICE, parameters - begin), self.stats)) for begin in begins]

    def add(self, row: Sequence[Floats]) -> None:
        """Add a row: each of the statistics, (parameters,)."""
        self._waiting.append(row)
        if len(self._waiting) == GROUP:
            self._take()

    def extend(self, tables: Mapping[str, Floats]) -> None:
        """Add rows by statistic, (rows, parameters)."""
        rows = len(tables["norm"])
        whole = 0 if self._waiting else rows // GROUP * GROUP
        for at in range(0, whole, GROUP):  # without a copy of each row
            for begin, part in self._slices:
                own = slice(begin, begin + part.parameters)
                part.take({stat: tables[stat][at : at + GROUP, own] for stat in self.stats})
        for at in range(whole, rows):
            self.add([tables[stat][at] for stat in self.stats])

    def finish(self) -> LayerDigest:
        """The digest of all rows."""
        if self._waiting:
            self._take()
        parts = [part.finish() for _, part in self._slices]
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        begins = [begin for begin, _ in self._slices]
        return LayerDigest(
            rows=parts[0].rows,
            maxima={stat: np.concatenate([part.maxima[stat] for part in parts], axis=1) for stat in self.stats},
            high=joined("high"),
            high_row=joined("high_row"),
            bad=joined("bad"),
            absent=joined("absent"),
            zeros=joined("zeros"),
            zeros_known=joined("zeros_known"),
            sketch=Sketch.side_by_side(begins, [part.sketch for part in parts]),
        )

    def _take(self) -> None:
        for begin, part in self._slices:
            own = slice(begin, begin + part.parameters)
            part.take({stat: np.stack([row[at][own] for row in self._waiting]) for at, stat in enumerate(self.stats)})
        self._waiting = []


class _SliceDigester:
    """Digests some of the parameters, `GROUP` rows at a time."""

    def __init__(self, parameters: int, stats: Sequence[str]) -> None:
        self.parameters, self.stats = parameters, tuple(stats)
        self.rows = 0
        self._maxima: dict[str, list[Floats]] = {stat: [] for stat in self.stats}
        self._high = np.full(parameters, ABSENT, np.float32)
        self._high_row = np.full(parameters, -1, np.int64)
        self._counts = np.zeros((3, parameters), np.int64)
        self._zeros = np.zeros(parameters)
        self._keys: list[NDArray[np.int32]] = []
        self._sketch = Sketch.of_keys(np.empty(0, np.int64))

    def finish(self) -> LayerDigest:
        """The digest of all rows."""
        self._count()
        none = np.empty((0, self.parameters), np.float32)
        return LayerDigest(
            rows=self.rows,
            maxima={stat: np.stack(rows) if rows else none for stat, rows in self._maxima.items()},
            high=self._high,
            high_row=self._high_row,
            bad=self._counts[0],
            absent=self._counts[1],
            zeros=self._zeros,
            zeros_known=self._counts[2],
            sketch=self._sketch,
        )

    def take(self, tables: Mapping[str, Floats]) -> None:
        """Add rows by statistic, (rows, parameters); they share one largest value."""
        nonfinite = tables.get("nonfinite")
        codes = {
            stat: encode(table, nonfinite if stat in ("norm", "abs_max") else None) for stat, table in tables.items()
        }
        for stat, table in codes.items():
            self._maxima[stat].append(table.max(axis=0))
        norms = codes["norm"]
        finite = np.where(norms == NOT_FINITE, np.float32(ABSENT), norms)
        at = finite.argmax(axis=0)
        highest = finite[at, np.arange(self.parameters)]
        higher = highest > self._high
        self._high[higher], self._high_row[higher] = highest[higher], self.rows + at[higher]
        bad = nonfinite > 0 if nonfinite is not None else np.zeros(norms.shape, bool)
        self._counts[0] += bad.sum(axis=0)
        self._counts[1] += ((norms == ABSENT) & ~bad).sum(axis=0)
        if "zeros" in tables:
            self._counts[2] += (~np.isnan(tables["zeros"])).sum(axis=0)
            self._zeros += np.nansum(tables["zeros"].astype(np.float64), axis=0)
        self._keys.append(_keys(norms).astype(np.int32))  # of a slice they are small
        self.rows += len(norms)
        if sum(map(len, self._keys)) > MAX_KEYS:
            self._count()

    def _count(self) -> None:
        if self._keys:
            new = Sketch.of_keys(np.concatenate(self._keys))
            # Mostly the first ones; to merge them with none takes as long as to find them.
            self._sketch = (Sketch.merged([self._sketch, new]) if len(self._sketch.bin) else new).compact()
            self._keys = []


# ----------------------------------------------------------------------------- digests as bytes


def pack(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A line of JSON, then the arrays in it as bytes. An array of one value throughout is kept as that value."""
    kept: dict[str, Any] = {}
    pieces = []
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        data = little.tobytes()
        size = little.dtype.itemsize
        if little.size > 1 and data == data[:size] * little.size:
            data = data[:size]
        kept[name] = [little.dtype.str, list(array.shape), len(data)]
        pieces.append(data)
    return b"\n".join([json.dumps({**about, "arrays": kept}).encode(), b"".join(pieces)])


MAX_BYTES = 2**31
"""Bytes of the largest array that is unpacked: a store from a stranger may claim any size."""

_TYPES = {"<f4", "<f8", "<i8", "<i4", "<i2", "<u2", "|u1"}


def unpack(blob: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `pack` packed.

    Raises:
        ValueError: the bytes are something else.

    >>> about, arrays = unpack(pack({"rows": 3}, {"a": np.array([2.0, 2.0, 2.0])}))
    >>> about["rows"], arrays["a"].tolist()
    (3, [2.0, 2.0, 2.0])
    """
    head, _, rest = blob.partition(b"\n")
    try:
        about = json.loads(head)
        kept = about.pop("arrays")
        arrays, at = {}, 0
        for name, (kind, shape, length) in kept.items():
            if kind not in _TYPES or not all(type(n) is int and 0 <= n < 2**31 for n in (*shape, length)):
                raise ValueError("no array of a digest is of that kind")
            one = np.dtype(kind).itemsize
            size = math.prod(shape) * one
            if size > MAX_BYTES or length not in (size, one) or at + length > len(rest):
                raise ValueError("an array is cut off")
            if length == size:
                arrays[name] = np.ndarray(shape, kind, rest, at)
            else:  # of its own bytes, so that it keeps no others; `numpy.broadcast_to` takes ten times as long
                arrays[name] = np.ndarray(shape, kind, rest[at : at + one], 0, (0,) * len(shape))
            at += length
    except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError("this is no digest") from error
    return about, arrays


def step_arrays(columns: Mapping[str, Sequence[Any]]) -> Columns:
    """The columns of table ``step``, with NaN where the row says so, as arrays: null is NaN, texts are objects."""
    arrays: Columns = {name: np.array(columns[name], np.int64) for name in WHOLE}
    arrays |= {name: np.array(columns[name], np.float64) for name in REAL}
    arrays[LOGGED] = np.array([loss is not None for loss in columns["loss"]], bool)
    for name in TEXTS:
        arrays[name] = np.empty(len(columns[name]), object)
        arrays[name][:] = columns[name]
    return arrays


def pack_steps(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The columns of rows of table ``step``, by name as they are stored, with NaN where the row says so."""
    arrays = step_arrays(columns)
    arrays[LOGGED] = arrays[LOGGED].astype(np.uint8)
    texts = {}
    for name in TEXTS:
        distinct = list(dict.fromkeys(columns[name]))
        if len(distinct) > 2**16:
            raise ValueError("too many texts to be told by number")
        codes = {text: code for code, text in enumerate(distinct)}
        arrays[name] = np.array([codes[text] for text in columns[name]], np.uint16)
        texts[name] = distinct
    for name in ("id", "step"):  # mostly one after the other
        if len(arrays[name]):
            arrays[name] = np.diff(arrays[name], prepend=arrays[name][0] - 1)
    first = {name: int(columns[name][0]) if len(columns[name]) else 0 for name in ("id", "step")}
    parts = -1 if None in columns["parts"] else functools.reduce(operator.or_, columns["parts"], 0)
    return pack({"texts": texts, "first": first, "parts": parts}, arrays)


def unpack_steps(blob: bytes) -> tuple[Columns, int]:
    """The columns that `pack_steps` packed, as arrays of one length, texts as objects; and every bit of their parts.

    The bits are -1 where they are not known. Columns are views of the bytes where they can be.

    Raises:
        ValueError: the bytes are something else.
    """
    about, arrays = unpack(blob)
    if set(arrays) != {*WHOLE, *REAL, LOGGED, *TEXTS} or len({array.shape for array in arrays.values()}) != 1:
        raise ValueError("this is no digest of steps")
    columns: Columns = dict(arrays)
    try:
        for name in ("id", "step"):
            columns[name] = np.cumsum(arrays[name]) + (about["first"][name] - 1)
        for name in TEXTS:
            distinct = np.empty(len(about["texts"][name]), object)
            distinct[:] = about["texts"][name]
            columns[name] = each(distinct.__getitem__, arrays[name])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("this is no digest of steps") from error
    columns[LOGGED] = each(lambda logged: logged.astype(bool), arrays[LOGGED])
    parts = about.get("parts")
    return columns, parts if type(parts) is int else -1


def pack_layers(digest: LayerDigest) -> bytes:
    """A digest of layers as bytes."""
    sketch = digest.sketch
    arrays: dict[str, NDArray[Any]] = {f"maxima.{stat}": table for stat, table in digest.maxima.items()}
    arrays |= {
        "high": digest.high,
        "high_row": digest.high_row.astype(np.int32),
        "bad": digest.bad.astype(np.int32),
        "absent": digest.absent.astype(np.int32),
        "zeros": digest.zeros,
        "zeros_known": digest.zeros_known.astype(np.int32),
        "sketch.bins": np.bincount(sketch.parameter, minlength=len(digest.high)).astype(np.int32),
        "sketch.bin": sketch.bin.astype(np.int16),
        "sketch.count": sketch.count.astype(np.uint16),
    }
    return pack({"rows": digest.rows}, arrays)


def unpack_layers(blob: bytes, stats: Collection[str] = STATS) -> LayerDigest:
    """The digest that `pack_layers` packed, with the maxima of these statistics.

    Raises:
        ValueError: the bytes are something else.
    """
    about, arrays = unpack(blob)
    try:
        parameters = len(arrays["high"])
        maxima = {stat: arrays[f"maxima.{stat}"] for stat in STATS if f"maxima.{stat}" in arrays}
        groups = -(-int(about["rows"]) // GROUP)
        sizes = {name: len(arrays[name]) for name in ("high_row", "bad", "absent", "zeros", "zeros_known")}
        held = int(arrays["sketch.bins"].sum())
        if (
            any(table.shape != (groups, parameters) for table in maxima.values())
            or set(sizes.values()) != {parameters}
            or not len(arrays["sketch.bin"]) == len(arrays["sketch.count"]) == held
            or len(arrays["sketch.bins"]) != parameters
        ):
            raise ValueError("this is no digest of layers")
        # Copies, for an array that is a part of the bytes keeps all of them.
        return LayerDigest(
            rows=int(about["rows"]),
            maxima={s: t if t.strides == (0, 0) else t.copy() for s, t in maxima.items() if s in stats},
            high=arrays["high"].copy(),
            high_row=arrays["high_row"].astype(np.int64),
            bad=arrays["bad"].astype(np.int64),
            absent=arrays["absent"].astype(np.int64),
            zeros=arrays["zeros"].copy(),
            zeros_known=arrays["zeros_known"].astype(np.int64),
            sketch=Sketch(
                parameter=np.repeat(np.arange(parameters, dtype=np.int32), arrays["sketch.bins"]),
                bin=arrays["sketch.bin"].copy(),
                count=arrays["sketch.count"].copy(),
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError("this is no digest of layers") from error


# ------------------------------------------------------------------------------ of records


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A row of table ``digest``; ``layers`` is None where some row has none, or others than the rest.

    It takes the place of the one with the last id ``replaces``, which covers the first of its rows.
    """

    last_id: int
    optimizer: str
    steps: bytes
    layers: bytes | None
    replaces: int | None = None


class RecordDigester:
    """Digests the records of one optimizer as they are written."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._layers: LayerDigester | None = None
        self._is_uniform = True  # every row so far has layers with the same statistics
        self._written: int | None = None  # the last id of the digest of the first of these rows

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= ROWS

    @property
    def is_due(self) -> bool:
        """Whether the rows so far get a digest until there are more: of a wide model they take long to read."""
        return self._parameters > WIDE and not len(self._rows) % EARLY_ROWS

    @property
    def _parameters(self) -> int:
        return 0 if self._layers is None else self._layers.parameters

    def is_of_many(self, rows: int) -> bool:
        """Whether readers of so many rows would read digests."""
        return rows >= MANY_ROWS or rows * self._parameters >= MANY_ENTRIES

    def add(self, row: tuple[Any, ...], record: StepRecord) -> None:
        """Add a record with its row of table ``step``."""
        self._rows.append(row)
        layers = record.layers
        if layers is None or not self._is_uniform or len(layers.parameters) > MAX_PARAMETERS:
            self._is_uniform, self._layers = False, None
            return
        stats = tuple(stat for stat in STATS if getattr(layers, stat) is not None)
        if self._layers is None:
            self._layers = LayerDigester(len(layers.parameters), stats)
        if (self._layers.parameters, self._layers.stats) != (len(layers.parameters), stats):
            self._is_uniform, self._layers = False, None
            return
        self._layers.add([np.asarray(getattr(layers, stat), np.float32) for stat in stats])

    def finish(self) -> Digest:
        """The digest of the rows so far, of which there must be one. More rows may follow.

        Raises:
            ValueError: they can't be digested, for example as every row has a text of its own.
        """
        columns: dict[str, Sequence[Any]] = dict(zip(_NAMES, zip(*self._rows, strict=True), strict=False))
        last_id, replaces = int(columns["id"][-1]), self._written
        found = Digest(
            last_id=last_id,
            optimizer=columns["optimizer"][0],
            steps=pack_steps(with_nan(columns)),
            layers=None if self._layers is None else pack_layers(self._layers.finish()),
            replaces=None if replaces == last_id else replaces,
        )
        self._written = last_id
        return found


class RecordDigesters:
    """A digester for each optimizer, begun anew whenever a digest is complete."""

    def __init__(self) -> None:
        self._of: dict[str, RecordDigester] = {}

    def add(self, records: Iterable[StepRecord], rows: Iterable[tuple[Any, ...]]) -> list[Digest]:
        """Add records with their rows of table ``step``; return the digests to write with them."""
        found = []
        for record, row in zip(records, rows, strict=True):
            digester = self._of.setdefault(record.optimizer, RecordDigester())
            digester.add(row, record)
            if digester.is_full:
                del self._of[record.optimizer]
            if digester.is_full or digester.is_due:
                with contextlib.suppress(ValueError):  # without one, readers read the rows
                    found.append(digester.finish())
        return found

    def finish(self, rows: int) -> list[Digest]:
        """The digests of all rows that wait for more, if readers of a run of so many rows would read them."""
        found = []
        for digester in self._of.values():
            if digester.is_of_many(rows):
                with contextlib.suppress(ValueError):
                    found.append(digester.finish())
        self._of.clear()
        return found

    def forget(self, optimizer: str) -> None:
        """Let go of the rows of an optimizer that makes no more steps; they stay without a digest."""
        self._of.pop(optimizer, None)

    def clear(self) -> None:
        """Forget all rows so far: they were not written."""
        self._of.clear()


_NAMES = ("id", *STEP_COLUMNS)


def with_nan(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns of table ``step`` with NaN for null where the row says so."""
    filled: dict[str, Any] = {name: list(column) for name, column in columns.items()}
    for at, names in enumerate(columns["nan"]):
        for name in names.split(",") if names else ():
            filled[name][at] = math.nan
    return filled
