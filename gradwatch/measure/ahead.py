"""Read gradients while PyTorch computes the norm by which it clips.

PyTorch's norm on the CPU takes one thread and is bound by arithmetic, not by memory. A helper thread that reads the
same gradients at that time costs the training next to nothing where a processor is idle. Where none is, the training
thread reads what the helper has not come to. Both only read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.fused import FusedReading, Readable, measure_fused, readable

LEAST = 2**18
"""Entries from which on a helper is worth waking: reading them takes about 0.1 ms."""


class _Begun(NamedTuple):
    gradients: Sequence[Tensor | None]
    found: Readable
    reading: FusedReading

    def is_of(self, gradients: Sequence[Tensor | None]) -> bool:
        same = len(self.gradients) == len(gradients) and all(map(is_, self.gradients, gradients))
        return same and self.reading.is_reading  # an interrupt may have come right after its end


class _OfThread(threading.local):
    """What this thread has begun to read."""

    begun: _Begun | None = None


_of_thread = _OfThread()


def is_worth_reading_ahead(entries: int) -> bool:
    """Whether so many entries take longer to read than waking a helper does."""
    return entries >= LEAST


def begin_reading(gradients: Sequence[Tensor | None]) -> None:
    """Begin to read gradients that nothing changes until they are measured, or `drop_reading` is called.

    Does nothing if this thread reads already, or no other processor could help.
    """
    if _of_thread.begun is not None or _processors() < 2:
        return
    found = readable(gradients)
    if is_worth_reading_ahead(sum(found.sizes)):
        reading = FusedReading(found)
        _of_thread.begun = _Begun(gradients, found, reading)  # before it begins, for an interrupt (Ctrl-C) may follow
        reading.begin()
        if not reading.is_reading:
            _of_thread.begun = None


def is_reading() -> bool:
    """Whether this thread has begun to read gradients."""
    return _of_thread.begun is not None


def drop_reading() -> None:
    """End what this thread has begun to read, if that was not measured."""
    begun = _of_thread.begun
    if begun is not None:
        begun.reading.drop()
        _of_thread.begun = None


def read(gradients: Sequence[Tensor | None]) -> tuple[Readable, NDArray[np.float64] | None]:
    """Return the gradients that the compiled pass can read and their statistics, None if there are none.

    They are those that this thread has begun to read, or are read now.
    """
    begun = _of_thread.begun
    if begun is not None and begun.is_of(gradients):
        table = begun.reading.table()
        _of_thread.begun = None
        return begun.found, table
    found = readable(gradients)
    return found, measure_fused(found) if found.positions else None


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
