"""Arrays behind a JSON header, as the page reads them. JSON alone lacks NaN and is five times as long."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Floats

_ALIGNMENT = 8  # bytes, as a browser's typed arrays need it
_LEVEL = 6  # of zlib: 9 takes ten times as long for half a percent less
_KEPT_TYPES = (np.dtype("float32"), np.dtype("uint16"))


def pack(about: object, arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Encode the length of the header (uint32), the header and the arrays, all little-endian.

    Args:
        about: anything that JSON can hold.
        arrays: by name. All but float32 and uint16 become float64, the numbers of a browser.

    Returns:
        The header is JSON with ``about`` and, for each array, its name, dtype, shape and offset from
        the end of the header. Every array begins at a multiple of 8 bytes.

    >>> packed = pack({"a": 1}, {"x": np.array([1.0, 2.0])})
    >>> length = int.from_bytes(packed[:4], "little")
    >>> packed[4 : 4 + length].strip()
    b'{"about": {"a": 1}, "arrays": [["x", "float64", [2], 0]]}'
    """
    entries, parts, offset = [], [], 0
    for name, array in arrays.items():
        kept = array if array.dtype in _KEPT_TYPES else array.astype(np.float64)
        data = np.ascontiguousarray(kept, kept.dtype.newbyteorder("<")).tobytes()
        entries.append([name, kept.dtype.name, list(kept.shape), offset])
        padding = -len(data) % _ALIGNMENT
        parts += [data, bytes(padding)]
        offset += len(data) + padding
    header = json.dumps({"about": about, "arrays": entries}, allow_nan=False).encode()
    header += b" " * (-(4 + len(header)) % _ALIGNMENT)
    return b"".join([struct.pack("<I", len(header)), header, *parts])


def embed(packed: bytes) -> str:
    """Compress (zlib) and encode in base64, for a page that carries its data.

    >>> zlib.decompress(base64.b64decode(embed(b"data")))
    b'data'
    """
    return base64.b64encode(zlib.compress(packed, _LEVEL)).decode()


def to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16, which is right to 0.4%; NaN and infinity stay, no value becomes infinite.

    >>> to_bfloat16(np.array([1.0, np.inf, -1.0], np.float32)).tolist()
    [16256, 32640, 49024]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    truncated = bits >> 16  # for the largest values, which would round to infinity
    return np.where(np.isfinite(values) & (rounded & 0x7FFF < 0x7F80), rounded, truncated).astype(np.uint16)


def byte_planes(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Reorder bytes: all high bytes, then all low bytes, which compresses better. The shape stays.

    >>> byte_planes(np.array([0x0102, 0x0304], np.uint16)).tobytes().hex()
    '01030204'
    """
    pairs = codes.astype("<u2").view(np.uint8).reshape(-1, 2)
    return np.concatenate([pairs[:, 1], pairs[:, 0]]).view("<u2").reshape(codes.shape)
