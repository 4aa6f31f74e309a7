"""The scalars of a run as TensorBoard event files."""

from __future__ import annotations

from pathlib import Path

from gradwatch.analysis.history import is_imported
from gradwatch.analysis.run import Run
from gradwatch.errors import CannotExport
from gradwatch.sinks.event_files import write


def write_scalars(run: Run, folder: Path) -> int:
    """Write the scalars of every optimizer and return the number of steps.

    Raises:
        CannotExport: the folder can't be written.
    """
    names = list(run.optimizers)
    try:
        knows_clipping = not is_imported(run.meta())
        return sum(write(run.records(name), folder, len(names) > 1, knows_clipping=knows_clipping) for name in names)
    except OSError as error:
        raise CannotExport(f"{str(folder)!r} can't be written: {error}.") from error
