"""Windows of steps, as trackers get them: a million steps make a thousand points and lose no spike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradwatch.record import StepRecord
from gradwatch.sinks.event_files import WINDOWS, highest, scalars


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One window of the steps of one optimizer.

    Attributes:
        optimizer: its name.
        last: the last record of the window.
        peak: the record with the largest total norm.
        values: the series by name, as `scalars` defines them, and ``learning_rate`` and ``max_norm`` if known.
    """

    optimizer: str
    last: StepRecord
    peak: StepRecord
    values: dict[str, float]


class Windows:
    """Collects records and gives the point of a window when it is full: a hundredth of the run so far.

    >>> windows = Windows()
    >>> [point.values["total_norm"] for n in range(3) for point in windows.add(StepRecord(step=n, total_norm=float(n)))]
    [0.0, 1.0, 2.0]
    """

    def __init__(self) -> None:
        self._open: dict[str, list[StepRecord]] = {}

    def add(self, record: StepRecord) -> Iterator[Point]:
        """Take in a record."""
        window = self._open.setdefault(record.optimizer, [])
        window.append(record)
        if len(window) >= max(1, record.step // WINDOWS):
            self._open[record.optimizer] = []
            yield point_of(window)

    def rest(self) -> Iterator[Point]:
        """The points of the windows that are not full."""
        for window in self._open.values():
            if window:
                yield point_of(window)
        self._open = {}


def point_of(window: list[StepRecord]) -> Point:
    """The point of a window that is not empty."""
    last, values = window[-1], scalars(window)
    if last.learning_rates:
        values["learning_rate"] = last.learning_rates[0]
    if last.max_norm is not None:
        values["max_norm"] = last.max_norm
    return Point(optimizer=last.optimizer, last=last, peak=highest(window), values=values)
