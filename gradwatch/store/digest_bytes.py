"""Digests as bytes: a line of JSON, then the arrays that it names."""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import STATS
from gradwatch.store.columns import LOGGED, REAL, TEXTS, WHOLE, Columns, each, step_arrays
from gradwatch.store.layer_digests import GROUP, LayerDigest
from gradwatch.store.sketch import Sketch

MAX_BYTES = 2**31
"""Bytes of the largest array that is unpacked: a store from a stranger may claim any size."""

_TYPES = {"<f4", "<f8", "<i8", "<i4", "<i2", "<u2", "|u1"}


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
        if any(table.shape != (groups, parameters) for table in maxima.values()) or not _fit_together(arrays):
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


def _fit_together(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the arrays of a digest of layers are of as many parameters, and its sketch has what their bins hold."""
    of_parameters = ("high", "high_row", "bad", "absent", "zeros", "zeros_known", "sketch.bins")
    held = int(arrays["sketch.bins"].sum())
    return (
        len({len(arrays[name]) for name in of_parameters}) == 1
        and len(arrays["sketch.bin"]) == len(arrays["sketch.count"]) == held
    )
