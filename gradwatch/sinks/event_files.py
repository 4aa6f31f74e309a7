"""Writes a few scalars of a run as event files, for TensorBoard's Scalars page and other readers of them.

TensorBoard draws at most 1,000 points of a series at random, and would mostly miss a single high step. So each point
here stands for a window of steps and holds the largest norm in it. A window is a hundredth of the run so far: a million
steps make about a thousand points.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from gradwatch.record import StepRecord

PREFIX = "gradwatch"
WINDOWS = 100
"""A window is one of this many equal parts of the run so far."""

OF_CLIPPING = ("clip_coef", "clipped_fraction")
"""Tags that a history without clipping can't have."""


class EventFiles:
    """Writes the scalars of records into an event file in a folder.

    The tags are those of `scalars` behind ``gradwatch/``, and behind the optimizer's name if there are several.
    """

    def __init__(self, folder: Path, several: bool = False, *, knows_clipping: bool = True) -> None:
        """Open an event file in ``folder``.

        Args:
            folder: that it is written to.
            several: put the optimizer's name into the tags.
            knows_clipping: whether clipping would have been recorded.
        """
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # raises here what would otherwise end the writer's own thread
            pass
        self._writer = EventFileWriter(str(folder), flush_secs=5)
        self._several = several
        self._knows_clipping = knows_clipping
        self._windows: dict[str, list[StepRecord]] = {}

    def add(self, record: StepRecord) -> None:
        """Add a record, and write its window if that is full now."""
        window = self._windows.setdefault(record.optimizer, [])
        window.append(record)
        if len(window) >= max(1, record.step // WINDOWS):
            self._write(record.optimizer)

    def close(self) -> None:
        """Write the last windows and close the file."""
        for optimizer in list(self._windows):
            if self._windows[optimizer]:
                self._write(optimizer)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, optimizer: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        window, self._windows[optimizer] = self._windows[optimizer], []
        prefix = f"{PREFIX}/{optimizer}" if self._several else PREFIX
        peak, last = highest(window), window[-1]
        points: dict[str, list[Summary.Value]] = {"peak": [], "last": []}
        found = scalars(window)
        if not self._knows_clipping:
            found = {tag: value for tag, value in found.items() if tag not in OF_CLIPPING}
        for tag, value in found.items():
            moment = "peak" if tag == "total_norm_max" else "last"
            points[moment].append(Summary.Value(tag=f"{prefix}/{tag}", simple_value=value))
        for record, values in ((peak, points["peak"]), (last, points["last"])):
            if values:
                summary = Summary(value=values)
                self._writer.add_event(Event(step=record.step, wall_time=record.wall_time, summary=summary))


def highest(window: list[StepRecord]) -> StepRecord:
    """The record with the largest total norm, or the first one whose norm is NaN.

    >>> highest([StepRecord(step=0, total_norm=9.0), StepRecord(step=1, total_norm=1.0)]).step
    0
    """
    return max(window, key=lambda record: (math.isnan(record.total_norm), record.total_norm))


def scalars(window: list[StepRecord]) -> dict[str, float]:
    """The values of a window of records by tag.

    total_norm is that of the last step, total_norm_max the largest, clip_coef the smallest, clipped_fraction the share
    of steps that were clipped, nonfinite the most entries at a step, and loss the mean of the finite ones (NaN if none
    is). Where no norm is known, as in an imported history of losses alone, there is no more than the loss.

    >>> scalars([StepRecord(step=0, loss=2.0)])
    {'loss': 2.0}
    >>> scalars([StepRecord(step=0, total_norm=9.0, clip_coef=0.1), StepRecord(step=1, total_norm=1.0)])
    {'total_norm': 1.0, 'total_norm_max': 9.0, 'clip_coef': 0.1, 'clipped_fraction': 0.5, 'nonfinite': 0.0}
    """
    losses = [record.loss for record in window if record.loss is not None]
    found = {}
    if any(record.norm_is_known for record in window):
        found = {
            "total_norm": window[-1].total_norm,
            "total_norm_max": _unless_nan(max, [record.total_norm for record in window]),
            "clip_coef": _unless_nan(min, [record.clip_coef for record in window]),
            "clipped_fraction": sum(record.clipped for record in window) / len(window),
            "nonfinite": float(max(record.nonfinite for record in window)),
        }
    if losses:
        found["loss"] = _mean_of_finite(losses)
    return found


def _mean_of_finite(values: list[float]) -> float:
    """The mean of the finite ones; NaN if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _unless_nan(choose: Callable[[list[float]], float], values: list[float]) -> float:
    """The chosen value; NaN if any of them is."""
    return math.nan if any(map(math.isnan, values)) else choose(values)


def write(records: Iterable[StepRecord], folder: Path, several: bool = False, *, knows_clipping: bool = True) -> int:
    """Write the event file of records that are there already; return how many they are."""
    count = 0
    with EventFiles(folder, several, knows_clipping=knows_clipping) as files:
        for record in records:
            files.add(record)
            count += 1
    return count
