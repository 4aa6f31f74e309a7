"""Turns histories that other tools recorded into runs: event files, ``trainer_state.json`` and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradwatch.errors import CannotImport
from gradwatch.sources import event_files, table, trainer_state
from gradwatch.sources.history import History, Imported, write

__all__ = ["History", "Imported", "read", "write"]


def read(paths: Sequence[Path], norm: str | None = None, step: str | None = None, loss: str | None = None) -> History:
    """Read the history in one file, or in several event files of one run.

    Args:
        paths: event files or their folder, a ``trainer_state.json``, or a CSV or Parquet file.
        norm: column or tag of the gradient norm; needed only if its name does not tell.
        step: column of the step.
        loss: column or tag of the loss.

    Raises:
        CannotImport: a file is missing, is of no known kind, or lacks what is needed.
    """
    files = [file for path in paths for file in _files(path)]
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1:
        raise CannotImport(f"{len(kinds)} kinds of files were given; expected one kind, of one run.")
    (kind,) = kinds
    if kind == "events":
        return event_files.read(files, norm, loss)
    if len(files) > 1:
        raise CannotImport(f"{len(files)} files were given; expected one {kind} file for a run.")
    if kind == "json":
        return trainer_state.read(files[0])
    return table.read(files[0], norm, step, loss)


def _files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or what can be imported directly in a folder."""
    if not path.exists():
        raise CannotImport(f"{str(path)!r} does not exist.")
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*tfevents*"))
    if not found:
        state = path / "trainer_state.json"
        if state.exists():
            return [state]
        raise CannotImport(f"{str(path)!r} contains no event file; expected one directly in it, or give the file.")
    return found


def _kind(file: Path) -> str:
    if "tfevents" in file.name:
        return "events"
    kinds = {".json": "json", ".csv": "table", ".parquet": "table"}
    if file.suffix not in kinds:
        raise CannotImport(
            f"{file.name!r} is of no known kind; expected an event file (*tfevents*), trainer_state.json, .csv or"
            " .parquet."
        )
    return kinds[file.suffix]
