"""Event files as one of the trackers; `event_files` writes them."""

from __future__ import annotations

from pathlib import Path

from gradwatch.record import Event, StepRecord
from gradwatch.sinks.event_files import EventFiles
from gradwatch.sinks.tracker import Closing, RunFacts


class TensorBoardFiles:
    """Writes event files.

    Args:
        folder: to write into; by default the run's own.
    """

    label = "tensorboard"
    wants_layers = False

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._files: EventFiles | None = None

    def open(self, facts: RunFacts) -> None:
        """Open the file."""
        self._files = EventFiles(self._folder or facts.path, facts.several, knows_clipping=facts.knows_clipping)

    def show(self, record: StepRecord) -> None:
        """Write the window that is full now, if any."""
        assert self._files is not None
        self._files.add(record)

    def tell(self, event: Event) -> None:
        """TensorBoard has no place for events; the GradWatch tab shows them."""

    def rest(self) -> None:
        """The writer flushes by time."""

    def close(self, closing: Closing) -> None:
        """Write the last windows and close the file."""
        if self._files is not None:
            self._files.close()
