"""Checksums, so that a damaged value is noticed instead of shown. docs/store.md describes them for other readers.

Each row has two, in columns ``crc`` and ``row_crc``. The first is over the values of the row. The second is over the
name of its table, its id and the first, so that a row can't pass for a row of another table or of another id. All are
CRC-32 as in `zlib.crc32`.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP_NUMBERS = (
    "id",
    "step",
    "attempt",
    "wall_time",
    "total_norm",
    "max_norm",
    "norm_type",
    "clip_value",
    "clip_coef",
    "cut_entries",
    "nonfinite",
    "loss",
    "learning_rate",
    "loss_scale",
    "skipped",
    "parts",
)
"""The numbers in a step's checksum. Every store written since schema 4 depends on this order."""

LATER_STEP_NUMBERS = ("update_norm", "weight_norm")
"""Numbers that schema 6 added. They are in the checksum of a step only where one of them is not null."""

STEP_TEXTS = ("optimizer", "learning_rates", "nan", "clip_fault")
"""The texts in a step's checksum, in order."""

_as_json = json.JSONEncoder(separators=(",", ":")).encode
"""As `json.dumps`, which makes a new encoder for each of ten thousand rows."""

_PACKED = struct.Struct(f"<{len(STEP_NUMBERS)}d")
_PACKED_LATER = struct.Struct(f"<{len(LATER_STEP_NUMBERS)}d")
_BOUND = struct.Struct("<qI")
_MASK = 0xFFFFFFFF
_MULTIPLIER = 2654435761


def values_crc(values: Sequence[Any]) -> int:
    """``crc`` of a row of a small table: over its values as a JSON list without spaces in ASCII, NaN as null.

    >>> values_crc(["a", 1, 0.5, None])
    2456816563
    """
    plain = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    return zlib.crc32(_as_json(plain).encode())


def step_crc(row: Mapping[str, Any]) -> int:
    """``crc`` of a row of table ``step``.

    It is over `STEP_NUMBERS` as little-endian float64 with null as NaN, then over `STEP_TEXTS` as UTF-8 with a byte 31
    between them and null as nothing, then over `LATER_STEP_NUMBERS` as the first, unless all of them are null.

    >>> names = (*STEP_NUMBERS, *STEP_TEXTS, *LATER_STEP_NUMBERS)
    >>> row = dict.fromkeys(names) | {"id": 1, "step": 0, "optimizer": "0"}
    >>> step_crc(row) == step_crc(row | {"loss": math.nan}) != step_crc(row | {"loss": 0.5})
    True
    """
    numbers = _PACKED.pack(*(math.nan if row[name] is None else float(row[name]) + 0.0 for name in STEP_NUMBERS))
    crc = zlib.crc32(_texts(tuple(row[name] for name in STEP_TEXTS)), zlib.crc32(_with_one_nan(numbers, row)))
    return _add_later(crc, [row[name] for name in LATER_STEP_NUMBERS])


def _add_later(crc: int, numbers: Sequence[float | None]) -> int:
    """Let the later numbers of a step count in its checksum; one that is NaN counts as null."""
    values = [math.nan if number is None else float(number) + 0.0 for number in numbers]
    if all(map(math.isnan, values)):
        return crc
    return zlib.crc32(_PACKED_LATER.pack(*(np.nan if math.isnan(value) else value for value in values)), crc)


def _with_one_nan(numbers: bytes, row: Mapping[str, Any]) -> bytes:
    """Replace every NaN by numpy's, whatever its sign and payload."""
    if any(isinstance(row[name], float) and math.isnan(row[name]) for name in STEP_NUMBERS):
        values = np.frombuffer(numbers, "<f8").copy()
        values[np.isnan(values)] = np.nan
        return values.tobytes()
    return numbers


def step_crcs(columns: Mapping[str, Sequence[Any]]) -> NDArray[np.int64]:
    """`step_crc` of many rows, given by column as numbers, texts and None."""
    length = len(columns["id"])
    matrix = np.empty((length, len(STEP_NUMBERS)), "<f8")
    for at, name in enumerate(STEP_NUMBERS):
        matrix[:, at] = np.array(columns[name], np.float64)  # None becomes NaN
    matrix += 0.0
    rows = list(zip(*(columns[name] for name in STEP_TEXTS), strict=True))
    known = {row: _texts(row) for row in set(rows)}  # few of them differ
    texts = map(known.__getitem__, rows)
    crcs = list(map(zlib.crc32, texts, map(zlib.crc32, _pieces(matrix.tobytes(), _PACKED.size))))
    later = [columns[name] for name in LATER_STEP_NUMBERS]
    for at in [at for at, numbers in enumerate(zip(*later, strict=True)) if numbers != (None,) * len(numbers)]:
        crcs[at] = _add_later(crcs[at], [column[at] for column in later])
    return np.array(crcs, np.int64)


def _pieces(data: bytes, size: int) -> list[memoryview]:
    view = memoryview(data)
    return [view[at : at + size] for at in range(0, len(data), size)]


def _texts(texts: tuple[Any, ...]) -> bytes:
    return b"\x1f".join(b"" if text is None else str(text).encode("utf-8", "replace") for text in texts)


def blobs_crc(number: int, step: int, blobs: Sequence[bytes | None]) -> bytes:
    """``crc`` of a row of a table of blobs: a little-endian uint32 for each blob, 0 for null.

    Each begins with (id x 2654435761 + step) modulo 2^32, so that a blob of another step is noticed.
    """
    seed = _seed(number, step)
    return struct.pack(f"<{len(blobs)}I", *(0 if blob is None else zlib.crc32(blob, seed) for blob in blobs))


def _seed(number: int, step: int) -> int:
    return (number * _MULTIPLIER + step) & _MASK


def match_blobs(
    ids: Sequence[int], steps: Sequence[int], blobs: Sequence[bytes], crcs: Sequence[bytes], at: int
) -> NDArray[np.bool_]:
    """Whether each blob has the checksum at position ``at`` of the ``crc`` beside it; one too short matches nothing."""
    width = 4 * (at + 1)
    long_enough = np.array([len(crc) >= width for crc in crcs], bool)
    numbers, added = (np.array(column, np.int64).astype(np.uint64) for column in (ids, steps))
    seeds = (numbers * np.uint64(_MULTIPLIER) + added) & np.uint64(_MASK)
    found = np.array(list(map(zlib.crc32, blobs, seeds.tolist())), np.int64)
    written = np.array([int.from_bytes(crc[width - 4 : width], "little") for crc in crcs], np.int64)
    matched: NDArray[np.bool_] = long_enough & (found == written)
    return matched


def row_crc(table: str, number: int, crc: int | bytes) -> int:
    """``row_crc`` of a row.

    It begins with the CRC-32 of the table's name and is over the id as little-endian int64, 0 in a table whose key is
    text, and ``crc`` as it is in a blob table and as little-endian uint32 elsewhere.

    >>> row_crc("step", 1, 7) == row_crc("event", 1, 7), row_crc("step", 1, 7) == row_crc("step", 2, 7)
    (False, False)
    """
    seed = zlib.crc32(table.encode())
    if isinstance(crc, bytes):
        return zlib.crc32(crc, zlib.crc32(struct.pack("<q", number), seed))
    return zlib.crc32(_BOUND.pack(number, crc & _MASK), seed)


def row_crcs(table: str, ids: Sequence[int], crcs: Sequence[int] | Sequence[bytes]) -> NDArray[np.int64]:
    """`row_crc` of many rows of one table."""
    length = len(ids)
    if not length:
        return np.empty(0, np.int64)
    seeds = [zlib.crc32(table.encode())] * length
    numbers = np.array(ids, "<i8")
    if isinstance(crcs[0], bytes):
        begun = map(zlib.crc32, _pieces(numbers.tobytes(), 8), seeds)
        return np.array([zlib.crc32(crc, seed) for crc, seed in zip(crcs, begun, strict=True)], np.int64)  # type: ignore[arg-type]
    packed = np.empty(length, np.dtype([("id", "<i8"), ("crc", "<u4")]))
    packed["id"], packed["crc"] = numbers, np.array(crcs, np.int64) & _MASK
    return np.array(list(map(zlib.crc32, _pieces(packed.tobytes(), _BOUND.size), seeds)), np.int64)
