"""Checksums of the rows, by which a damaged number is noticed instead of shown. docs/store.md has the encodings.

All are CRC-32 as in `zlib.crc32`.
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

NUMBERS = (
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
"""What a step's checksum is over, in this order for ever: every store written so far has it."""

TEXTS = ("optimizer", "learning_rates", "nan", "clip_fault")
_PACKED = struct.Struct(f"<{len(NUMBERS)}d")
_MASK = 0xFFFFFFFF


def of_step(row: Mapping[str, Any]) -> int:
    """Of a row of table ``step``: its `NUMBERS` as little-endian float64, null as NaN, and its `TEXTS`.

    The texts are UTF-8 with a byte 31 between them, null as nothing.

    >>> row = dict.fromkeys((*NUMBERS, *TEXTS)) | {"id": 1, "step": 0, "optimizer": "0"}
    >>> of_step(row) == of_step(row | {"loss": math.nan}) != of_step(row | {"loss": 0.5})
    True
    """
    numbers = _PACKED.pack(*(math.nan if row[name] is None else float(row[name]) + 0.0 for name in NUMBERS))
    return zlib.crc32(_text(tuple(row[name] for name in TEXTS)), zlib.crc32(_one_nan(numbers, row)))


def _one_nan(numbers: bytes, row: Mapping[str, Any]) -> bytes:
    """Every NaN as numpy has it, whatever its sign and payload."""
    if any(isinstance(row[name], float) and math.isnan(row[name]) for name in NUMBERS):
        values = np.frombuffer(numbers, "<f8").copy()
        values[np.isnan(values)] = np.nan
        return values.tobytes()
    return numbers


def of_steps(columns: Mapping[str, Sequence[Any]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The same of many rows, and which of them hold something other than numbers among the numbers."""
    length = len(columns["id"])
    matrix = np.empty((length, len(NUMBERS)), "<f8")
    strange = np.zeros(length, bool)
    for at, name in enumerate(NUMBERS):
        try:
            matrix[:, at] = np.array(columns[name], np.float64)  # None becomes NaN
        except (TypeError, ValueError):
            kept = [value if isinstance(value, int | float) or value is None else math.nan for value in columns[name]]
            strange |= [not (isinstance(value, int | float) or value is None) for value in columns[name]]
            matrix[:, at] = [math.nan if value is None else value for value in kept]
    matrix += 0.0
    view, size = memoryview(matrix.tobytes()), _PACKED.size
    rows = list(zip(*(columns[name] for name in TEXTS), strict=True))
    known = {row: _text(row) for row in set(rows)}  # few are different
    texts = map(known.__getitem__, rows)
    parts = [view[at : at + size] for at in range(0, length * size, size)]
    return np.array(list(map(zlib.crc32, texts, map(zlib.crc32, parts))), np.int64), strange


def _text(texts: tuple[Any, ...]) -> bytes:
    return b"\x1f".join(b"" if text is None else str(text).encode("utf-8", "replace") for text in texts)


def of_blobs(number: int, step: int, blobs: Sequence[bytes | None]) -> bytes:
    """Of the blobs of a row of table ``layer`` or ``weight``, as little-endian uint32 one after the other; 0 for null.

    Each is begun with (id x 2654435761 + step) modulo 2^32, so that a blob at another step is noticed.
    """
    seed = (number * 2654435761 + step) & _MASK
    return struct.pack(f"<{len(blobs)}I", *(0 if blob is None else zlib.crc32(blob, seed) for blob in blobs))


def blobs_are_right(
    ids: Sequence[int],
    steps: Sequence[int],
    blobs: Sequence[bytes],
    sums: Sequence[bytes | None],
    at: int,
    sealed_from: int,
) -> NDArray[np.bool_]:
    """Whether each blob, the one at position ``at`` of its row, has the checksum beside it.

    A row before the id ``sealed_from`` has none and is taken as it is, if it is of the right kind at all.
    """
    width = 4 * (at + 1)
    usual = all(type(blob) is bytes and not len(blob) % 4 for blob in blobs) and set(map(type, steps)) <= {int}
    if not (usual and all(type(kept) is bytes and len(kept) >= width for kept in sums)):
        rows = zip(ids, steps, blobs, sums, strict=True)
        return np.array([_blob_is_right(*row, at, sealed_from) for row in rows], bool)
    numbers, added = (
        np.array(column, np.int64).astype(np.uint64) for column in (ids, steps)
    )  # a damaged one may be < 0
    seeds = (numbers * np.uint64(2654435761) + added) & np.uint64(_MASK)
    found = np.array(list(map(zlib.crc32, blobs, seeds.tolist())), np.int64)
    kept = np.array([int.from_bytes(each[width - 4 : width], "little") for each in sums if each is not None], np.int64)
    right: NDArray[np.bool_] = np.equal(found, kept)
    return right


def _blob_is_right(number: int, step: Any, blob: Any, kept: Any, at: int, sealed_from: int) -> bool:
    if not isinstance(blob, bytes) or not isinstance(step, int) or len(blob) % 4:
        return False
    if kept is None and number < sealed_from:
        return True
    found = zlib.crc32(blob, (number * 2654435761 + step) & _MASK)
    return isinstance(kept, bytes) and found == int.from_bytes(kept[4 * at : 4 * at + 4], "little")


def of_row(values: Sequence[Any]) -> int:
    """Of a row of any other table: its columns as a JSON list without spaces in ASCII, NaN as null.

    >>> of_row(["a", 1, 0.5, None])
    2456816563
    """
    plain = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    return zlib.crc32(json.dumps(plain, separators=(",", ":")).encode())
