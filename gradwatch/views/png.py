"""Pictures with a palette as PNG, written without an image library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(codes: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode a picture as PNG (ISO/IEC 15948) with colour type 3, 8 bits a pixel and no filter.

    Args:
        codes: (height, width), the number of each pixel's colour.
        palette: at most 256 colours as red, green, blue from 0 to 255. The first is transparent.

    >>> encode(np.zeros((1, 1), np.uint8), [(0, 0, 0)]).startswith(SIGNATURE)
    True
    """
    height, width = codes.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), codes], axis=1)  # each line begins with its filter, none
    return SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(value for colour in palette for value in colour)),
            _chunk(b"tRNS", b"\0"),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data and the CRC of kind and data."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
