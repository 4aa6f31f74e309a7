"""Reads what MLflow keeps, without the package: a folder ``mlruns``, or the database that a tracking server has.

In a folder each metric of a run is a text file with a line ``milliseconds value step`` for each value. In a database
they are rows of table ``metrics``, where an infinity is the largest number and a NaN a flag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources.databases import Database
from gradwatch.sources.lines import beginnings
from gradwatch.sources.logged import LoggedRun, Value, chosen, of_values
from gradwatch.sources.values import as_float

LARGEST = 1.7976931348623157e308  # stands for infinity in a database
MAX_FILE = 2**20  # bytes of a parameter or of a run's meta.yaml
LONGEST_LINE = 200  # bytes of a metric's value


def is_folder(path: Path) -> bool:
    """Whether a path is a run, an experiment or a whole ``mlruns``."""
    return path.is_dir() and next(_run_folders(path), None) is not None


def read_folder(path: Path, of: str | None) -> tuple[list[dict[str, Any]], LoggedRun]:
    """The rows of one run in a folder, and the run.

    Raises:
        CannotImport: there are several and ``of`` names none of them, or a file is not as MLflow writes it.
    """
    folders = {folder.name: folder for folder in _run_folders(path)}
    runs = [LoggedRun(key=key, name=_name(folder), settings=_settings(folder)) for key, folder in folders.items()]
    run = chosen(runs, of, str(path))
    return of_values(_values(folders[run.key] / "metrics")), run


def read_database(db: Database, of: str | None) -> tuple[list[dict[str, Any]], LoggedRun]:
    """The rows of one run of a tracking server's database, and the run.

    Raises:
        CannotImport: there are several and ``of`` names none of them, or a table is not as MLflow has it.
    """
    settings: dict[str, dict[str, str]] = {}
    for run, key, value in db.rows("select run_uuid, key, value from params"):
        settings.setdefault(str(run), {})[str(key)] = str(value)
    with_metrics = {str(run) for (run,) in db.rows("select distinct run_uuid from metrics")}
    runs = [
        LoggedRun(key=str(key), name=str(name or ""), settings=settings.get(str(key), {}))
        for key, name in db.rows("select run_uuid, name from runs")
        if str(key) in with_metrics
    ]
    run = chosen(runs, of, db.name)
    query = "select key, value, is_nan, step, timestamp from metrics where run_uuid = ? order by step, timestamp"
    return of_values(_of_database(db.rows(query, run.key))), run


def _of_database(rows: Iterable[tuple[Any, ...]]) -> Iterator[Value]:
    for key, value, is_nan, step, when in rows:
        number = math.nan if is_nan else as_float(value)
        if number is None:
            raise CannotImport(f"the database holds {str(value)[:40]!r} as a value of {str(key)!r}; expected a number.")
        number = math.copysign(math.inf, number) if abs(number) == LARGEST else number
        yield Value(name=str(key), step=step, value=number, time=(as_float(when) or 0.0) / 1000)


def _run_folders(path: Path) -> Iterator[Path]:
    """The folders of runs with metrics: the path itself, or one or two levels below it."""
    for pattern in ("metrics", "*/metrics", "*/*/metrics"):
        found = [
            one.parent for one in sorted(path.glob(pattern)) if one.is_dir() and (one.parent / "meta.yaml").is_file()
        ]
        if found:
            yield from found
            return


def _values(folder: Path) -> Iterator[Value]:
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        name = file.relative_to(folder).as_posix()
        for number, whole in enumerate(beginnings(file, LONGEST_LINE), 1):
            line = whole.decode(errors="replace")
            parts = line.split()
            if not parts:
                continue
            values = [as_float(part) for part in parts[:3]]
            if len(values) < 2 or None in values:
                raise CannotImport(
                    f"{str(file)!r} holds {line[:40]!r} in line {number}; expected milliseconds, a value and a step."
                )
            when, value, step = (*values, 0.0)[:3]
            yield Value(name=name, step=step, value=value, time=(when or 0.0) / 1000)


def _settings(folder: Path) -> dict[str, str]:
    """The parameters of a run: a file for each."""
    params = folder / "params"
    return {
        file.relative_to(params).as_posix(): _text(file).strip() for file in sorted(params.rglob("*")) if file.is_file()
    }


def _name(folder: Path) -> str:
    """The name of a run, from its meta.yaml; that file is flat, so that a line tells it."""
    found = re.search(r"^run_name: *['\"]?(.*?)['\"]?$", _text(folder / "meta.yaml"), re.MULTILINE)
    return found[1] if found else ""


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE:
            raise CannotImport(f"{str(file)!r} has more than {MAX_FILE} bytes.")
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error
