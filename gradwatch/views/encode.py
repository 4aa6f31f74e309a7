"""JSON as gradwatch writes it: NaN and infinity become the strings "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def dumps(value: object, indent: int | None = 2) -> str:
    """Encode dicts, lists, numbers, strings and None as valid JSON.

    >>> print(dumps({"x": float("nan"), "y": [float("-inf"), 1.5]}))
    {
      "x": "NaN",
      "y": [
        "-Infinity",
        1.5
      ]
    }
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    """The same with strings for the numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
