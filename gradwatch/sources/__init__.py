"""Turns histories that other tools recorded into runs: event files, JSON, tables, offline files and printed text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradwatch.errors import BadArgument, CannotImport
from gradwatch.sources import (
    configs,
    event_files,
    json_rows,
    mlflow_store,
    printed_tables,
    rows,
    series,
    table,
    text_log,
    trackio_store,
    trainer_state,
    wandb_file,
)
from gradwatch.sources.configs import Settings
from gradwatch.sources.databases import Database
from gradwatch.sources.history import History
from gradwatch.sources.lines import NOTEBOOK, refuse_what_is_no_text
from gradwatch.sources.logged import LoggedRun
from gradwatch.sources.writing import Imported, write
from gradwatch.text import number

__all__ = ["History", "Imported", "read", "write"]

DATABASES = (".db", ".sqlite", ".sqlite3")
"""How the names of databases end."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz")
"""How the names of compressed files end."""


def read(
    paths: Sequence[Path],
    norm: str | None = None,
    step: str | None = None,
    loss: str | None = None,
    pattern: str | None = None,
    of: str | None = None,
    config: Path | None = None,
    layers: str | None = None,
) -> History:
    """Read the history in one file, in several event files of one run, or in what a tracker keeps.

    Args:
        paths: event files or their folder, a ``trainer_state.json``, JSON lines, a JSON list, CSV, Parquet, an offline
            file of W&B, a folder ``mlruns`` or a database of MLflow, a database of trackio, or printed text.
        norm: column or tag of the gradient norm; needed only if its name does not tell.
        step: column of the step.
        loss: column or tag of the loss.
        pattern: a regular expression for printed text (`text_log`).
        of: id or name of the tracker's run, where a folder or a database has several.
        config: the file with the training's settings, instead of the usual ones beside the log (`configs.NAMES`).
        layers: how the names of the layers' norms begin, where these names are not the usual ones.

    Raises:
        BadArgument: the pattern makes no sense, or ``layers`` is given for a format without names of layers.
        CannotImport: a file is missing, is of no known kind, or lacks what is needed.
    """
    tracked = _tracked(paths, of)
    if tracked is not None:
        found, run = tracked
        history = rows.read(found, paths[0], norm, step or "step", loss, layers)
        settings = configs.read(paths[0], config) if config else configs.of_tracker(run.settings, run.label)
        return _with(replace(history, source=f"{history.source}, run {run.label}"), settings)
    if of is not None:
        raise CannotImport(f"--of names a run of MLflow or trackio; {', '.join(map(str, paths))} is of neither.")
    files, kind = _files_of_one_kind(paths)
    if kind == "wandb":
        found, told = wandb_file.read(files[0])
        history = rows.read(found, files[0], norm, step, loss, layers)
        settings = configs.of_tracker(told, files[0].name)
        return _with(history, settings if settings.optimizer and not config else configs.read(files[0], config))
    if kind == "events":
        history = event_files.read(files, norm, loss, layers)
    else:
        history = _read_one(files[0], kind, norm, step, loss, pattern, layers)
    return _with(history, configs.read(files[0], config))


def _files_of_one_kind(paths: Sequence[Path]) -> tuple[list[Path], str]:
    """The files, of which only event files may be several, and their kind."""
    files = [file for path in paths for file in _files(path)]
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1:
        raise CannotImport(f"{len(kinds)} kinds of files were given; expected one kind, of one run.")
    (kind,) = kinds
    if kind != "events" and len(files) > 1:
        raise CannotImport(
            f"{len(files)} files were given; expected one {kind} file for a run. Import each into a run of its own."
        )
    if kind in ("json", "lines", "table", "text") and files[0].suffix != ".parquet":
        refuse_what_is_no_text(files[0])
    return files, kind


def _with(history: History, settings: Settings) -> History:
    """The history with what configs tell of its training. A learning rate that was logged counts more."""
    notes = list(settings.notes)
    rate = None if any(point.learning_rate is not None for point in history.points) else settings.learning_rate
    if rate is not None:
        taken = f"learning rate {number(rate, 6)} taken from {settings.rate_from}"
        notes.append(f"{taken}; the log lacks it for single steps")
    return replace(
        history,
        optimizer=settings.optimizer,
        optimizer_from=settings.optimizer_from,
        learning_rate=rate,
        config=settings.config,
        notes=(*history.notes, *notes),
    )


def _read_one(
    file: Path,
    kind: str,
    norm: str | None,
    step: str | None,
    loss: str | None,
    pattern: str | None,
    layers: str | None,
) -> History:
    is_state = kind == "json" and pattern is None and not json_rows.is_list(file) and not json_rows.is_lines(file)
    found = (series.rows(file) or json_rows.rows_within(file)) if is_state else []
    if kind == "text" and pattern is None:
        if table.is_table(file):  # Keras' CSVLogger is often told to write a training.log
            return table.read(file, norm, step, loss, layers)
        found = printed_tables.rows(file, norm)
    if found:
        return rows.read(found, file, norm, step, loss, layers)
    if layers is not None and (is_state or pattern is not None or kind == "text"):
        raise BadArgument(f"--layers is given, but {file.name!r} is read without the names of layers.")
    if pattern is not None or kind == "text":
        _refuse_names(file, norm, step, loss)
        found, what, notes = text_log.rows(file, pattern)
        history = rows.read(found, file, step="step" if "step" in found[0] else None)
        taken = text_log.notes(found, history.notes)
        return replace(history, source=f"{file.name} by {what}", notes=(*taken, *notes))
    if is_state:
        return trainer_state.read(file)
    if kind in ("json", "lines"):
        found, notes = json_rows.rows(file)
        history = rows.read(found, file, norm, step, loss, layers)
        return replace(history, notes=(*notes, *history.notes))
    return table.read(file, norm, step, loss, layers)


def _refuse_names(file: Path, *names: str | None) -> None:
    given = next((name for name in names if name is not None), None)
    if given is not None:
        raise BadArgument(f"{file.name!r} is read as text, which has no series {given!r}; expected --pattern.")


def _tracked(paths: Sequence[Path], of: str | None) -> tuple[list[dict[str, Any]], LoggedRun] | None:
    """The rows of a run that MLflow or trackio keeps; None if the path is neither's."""
    if len(paths) != 1:
        return None
    (path,) = paths
    if mlflow_store.is_folder(path):
        return mlflow_store.read_folder(path, of)
    if path.suffix not in DATABASES or not path.is_file():
        return None
    with Database(path) as db:
        if db.has("metrics", "run_uuid", "key", "value", "step", "timestamp", "is_nan") and db.has("runs", "run_uuid"):
            return mlflow_store.read_database(db, of)
        if db.has("metrics", "run_name", "step", "metrics"):
            return trackio_store.read(db, of)
    raise CannotImport(f"{path.name!r} is a database, but neither MLflow's nor trackio's.")


def _files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or what can be imported directly in a folder."""
    if not path.exists():
        raise CannotImport(f"{str(path)!r} does not exist.")
    if not path.is_dir():
        # A pipe would be waited for, perhaps for ever, and is read only once.
        if not path.is_file():
            raise CannotImport(f"{str(path)!r} is no regular file; write what it gives into one first.")
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
        ".tsv": "table",
        ".parquet": "table",
        ".wandb": "wandb",
        ".log": "text",
        ".txt": "text",
        ".out": "text",
        NOTEBOOK: "text",
    }
    if file.suffix in COMPRESSED:
        raise CannotImport(f"{file.name!r} is compressed; unpack it first.")
    if file.suffix not in kinds:
        raise CannotImport(
            f"{file.name!r} is of no known kind; expected an event file (*tfevents*), trainer_state.json, .json,"
            " .jsonl, .csv, .tsv, .parquet, .wandb, .db, .log, .txt, .out or .ipynb, or a folder of MLflow."
        )
    return kinds[file.suffix]
