"""The largest numbers that a store may hold."""

from __future__ import annotations

LARGEST = 2**53
"""The largest whole number: beyond it float64, in which frames and checksums hold numbers, has gaps."""

LATEST = 1e11
"""The latest time, in seconds since the epoch; a calendar ends not long after it."""

MAX_MISSING = 1_000_000
"""The most missing rows of a table that are counted: a store from a stranger may claim any number."""


def is_count(value: object) -> bool:
    """Whether a value is a whole number that a store may hold.

    >>> is_count(0), is_count(-1), is_count(True), is_count(1.0), is_count(2**60)
    (True, False, False, False, False)
    """
    return type(value) is int and 0 <= value <= LARGEST
