"""Arrays with a little JSON before them, as the page reads them; JSON alone has no NaN and is five times as long."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Floats

_ALIGNED = 8  # bytes, for the views of a browser


def pack(about: object, arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The length of the header (uint32), the header, the arrays; all little-endian, arrays at multiples of 8 bytes.

    The header is JSON: ``about``, and for each array its name, dtype, shape and where it begins
    after the header. Integers become float64, the numbers of a browser.

    >>> packed = pack({"a": 1}, {"x": np.array([1.0, 2.0])})
    >>> length = int.from_bytes(packed[:4], "little")
    >>> packed[4 : 4 + length].strip()
    b'{"about": {"a": 1}, "arrays": [["x", "float64", [2], 0]]}'
    """
    entries, parts, position = [], [], 0
    for name, array in arrays.items():
        kept = array if array.dtype in (np.dtype("float32"), np.dtype("uint16")) else array.astype(np.float64)
        data = np.ascontiguousarray(kept, kept.dtype.newbyteorder("<")).tobytes()
        entries.append([name, kept.dtype.name, list(kept.shape), position])
        padding = -len(data) % _ALIGNED
        parts += [data, bytes(padding)]
        position += len(data) + padding
    header = json.dumps({"about": about, "arrays": entries}, allow_nan=False).encode()
    header += b" " * (-(4 + len(header)) % _ALIGNED)
    return b"".join([struct.pack("<I", len(header)), header, *parts])


def embedded(packed: bytes) -> str:
    """For a page that carries its data: deflated, in base64."""
    return base64.b64encode(zlib.compress(packed, 9)).decode()


def halved(values: Floats) -> NDArray[np.uint16]:
    """float32 in two bytes, to 0.4 %: bfloat16, rounded to the nearest.

    >>> halved(np.array([1.0, np.inf, -1.0], np.float32)).tolist()
    [16256, 32640, 49024]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    kept = bits >> 16  # of the largest values too, which would be rounded to infinity
    return np.where(np.isfinite(values) & (rounded & 0x7FFF < 0x7F80), rounded, kept).astype(np.uint16)


def in_planes(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """All high bytes and then all low bytes, which deflates better; of the same shape.

    >>> in_planes(np.array([0x0102, 0x0304], np.uint16)).tobytes().hex()
    '01030204'
    """
    pairs = codes.astype("<u2").view(np.uint8).reshape(-1, 2)
    return np.concatenate([pairs[:, 1], pairs[:, 0]]).view("<u2").reshape(codes.shape)
