"""Histories recorded by others become runs: event files, `trainer_state.json`, tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradwatch.errors import CannotImport
from gradwatch.sources import event_files, table, trainer_state
from gradwatch.sources.history import History, Imported, write

__all__ = ["History", "Imported", "read", "write"]


def read(paths: Sequence[Path], norm: str | None = None, step: str | None = None, loss: str | None = None) -> History:
    """The history in one or several files of a kind; a folder stands for the event files right in it.

    Args:
        paths: event files or their folder, a ``trainer_state.json``, a CSV or a Parquet file.
        norm: the column or the tag of the gradient norm, where it can't be told by its name.
        step: likewise the column of the step.
        loss: likewise of the loss.

    Raises:
        CannotImport: a file is not there, is of no known kind, or does not hold what is needed.
    """
    files = [file for path in paths for file in _files(path)]
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1:
        raise CannotImport(f"{len(kinds)} kinds of files were given; expected one, of one run.")
    (kind,) = kinds
    if kind == "events":
        return event_files.read(files, norm, loss)
    if len(files) > 1:
        raise CannotImport(f"{len(files)} files were given; expected one {kind} file a run.")
    if kind == "json":
        return trainer_state.read(files[0])
    return table.read(files[0], norm, step, loss)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise CannotImport(f"{str(path)!r} is not there.")
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*tfevents*"))
    if not found:
        state = path / "trainer_state.json"
        if state.exists():
            return [state]
        raise CannotImport(f"{str(path)!r} holds no event file; expected one right in it, or give the file.")
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
