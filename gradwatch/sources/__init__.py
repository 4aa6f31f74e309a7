"""Turns histories that other tools recorded into runs: event files, JSON, tables, offline files and printed text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradwatch.errors import CannotImport
from gradwatch.sources import event_files, json_rows, rows, table, text_log, trainer_state, wandb_file
from gradwatch.sources.history import History, Imported, write

__all__ = ["History", "Imported", "read", "write"]


def read(
    paths: Sequence[Path],
    norm: str | None = None,
    step: str | None = None,
    loss: str | None = None,
    pattern: str | None = None,
) -> History:
    """Read the history in one file, or in several event files of one run.

    Args:
        paths: event files or their folder, a ``trainer_state.json``, JSON lines, a JSON list, CSV, Parquet, an offline
            file of W&B, or printed text.
        norm: column or tag of the gradient norm; needed only if its name does not tell.
        step: column of the step.
        loss: column or tag of the loss.
        pattern: a regular expression for printed text (`text_log`).

    Raises:
        BadArgument: the pattern makes no sense.
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
    (file,) = files
    return _read_one(file, kind, norm, step, loss, pattern)


def _read_one(
    file: Path, kind: str, norm: str | None, step: str | None, loss: str | None, pattern: str | None
) -> History:
    if pattern is not None or kind == "text":
        found, what = text_log.rows(file, pattern)
        history = rows.read(found, file, step="step" if "step" in found[0] else None)
        return replace(history, source=f"{file.name} by {what}")
    if kind == "json" and not _is_list(file):
        return trainer_state.read(file)
    if kind in ("json", "lines"):
        return rows.read(json_rows.rows(file), file, norm, step, loss)
    if kind == "wandb":
        return rows.read(wandb_file.rows(file), file, norm, step, loss)
    return table.read(file, norm, step, loss)


def _is_list(file: Path) -> bool:
    """Whether a JSON file holds a list at its top."""
    try:
        with file.open("rb") as stream:
            return stream.read(4096).lstrip().startswith(b"[")
    except OSError:
        return False


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
    kinds = {
        ".json": "json",
        ".jsonl": "lines",
        ".ndjson": "lines",
        ".csv": "table",
        ".parquet": "table",
        ".wandb": "wandb",
        ".log": "text",
        ".txt": "text",
        ".out": "text",
    }
    if file.suffix not in kinds:
        raise CannotImport(
            f"{file.name!r} is of no known kind; expected an event file (*tfevents*), trainer_state.json, .json,"
            " .jsonl, .csv, .parquet, .wandb, .log, .txt or .out."
        )
    return kinds[file.suffix]
