"""Reads trackio's database of a project, without the package: a row for each logged step, as JSON in text or bytes."""

from __future__ import annotations

import json
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources.databases import Database
from gradwatch.sources.logged import LoggedRun, chosen

_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def read(db: Database, of: str | None) -> tuple[list[dict[str, Any]], LoggedRun]:
    """The rows of one run of a project, and the run.

    Raises:
        CannotImport: there are several and ``of`` names none of them, or a row is no JSON.
    """
    # Newer versions give a run an id, for two may have one name.
    key = "run_id" if db.has("metrics", "run_id") else "run_name"
    settings: dict[str, dict[str, Any]] = {}
    if db.has("configs", key, "config"):
        for run, config in db.rows(f"select {key}, config from configs"):
            settings[str(run)] = {name: str(value) for name, value in _parsed(config, db).items()}
    found = db.rows(f"select distinct {key}, run_name from metrics order by run_name")
    runs = [LoggedRun(key=str(run), name=str(name), settings=settings.get(str(run), {})) for run, name in found]
    run = chosen(runs, of, db.name)
    query = f"select step, metrics from metrics where {key} = ? order by step, id"
    return [{**_flat(_parsed(text, db)), "step": step} for step, text in db.rows(query, run.key)], run


def _parsed(text: Any, db: Database) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CannotImport(f"{db.name!r} holds a row that is not JSON: {str(text)[:40]!r}.") from error
    if not isinstance(found, dict):
        raise CannotImport(f"{db.name!r} holds {str(text)[:40]!r}; expected a JSON object.")
    return found


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row: trackio writes those that JSON lacks as strings, and tables and pictures as objects."""
    found = {name: _NUMBERS.get(value, value) if isinstance(value, str) else value for name, value in row.items()}
    return {
        name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
