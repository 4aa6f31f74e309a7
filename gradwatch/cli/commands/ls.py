"""`gradwatch ls`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gradwatch.analysis.filters import parse_filter
from gradwatch.analysis.listing import NAMES, RunRow, list_runs, sorted_rows
from gradwatch.cli.printing import print_lines, print_view
from gradwatch.errors import BadArgument, RunNotFound
from gradwatch.views.console.listing import run_list
from gradwatch.views.console.screen import Screen
from gradwatch.views.encode import dumps

LEAST_FOR_A_BAR = 16  # rows to compute


def ls(folder: Path, json: bool, sort: str, chosen: str | None, most: int | None, quick: bool) -> None:
    """Print a line for each run below a folder."""
    by, descending = order(sort)
    chooses = None if chosen is None else parse_filter(chosen, NAMES)
    if not folder.is_dir():
        raise RunNotFound(f"There is no folder {str(folder)!r}. Give one that holds runs.")
    now = time.time()
    rows = rows_below(folder, quick)
    if chooses is not None:
        # In a filter age is in seconds; in a row it is the time of writing.
        rows = [row for row in rows if chooses(row.as_dict() | {"written": now - row.written})]
    rows = sorted_rows(rows, by, descending=descending)
    shown = rows[:most]
    if json:
        typer.echo(_as_json([row.as_dict() | {"age": now - row.written} for row in shown]))
        return
    print_view(run_list(shown, Screen.of(Console(highlight=False)), now))
    if len(rows) > len(shown):
        print_lines(f"{len(rows) - len(shown)} more; without --most all are shown")


def _as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSON list with a line for each row: indented, a thousand take five times as long.

    >>> print(_as_json([{"name": "a"}, {"name": "b"}]))
    [
    {"name": "a"},
    {"name": "b"}
    ]
    """
    return "[\n" + ",\n".join(dumps(row, indent=None) for row in rows) + "\n]" if rows else "[]"


def order(sort: str) -> tuple[str, bool]:
    """The field of a row to sort by, and whether the largest comes first.

    Raises:
        BadArgument: there is no such field.

    >>> order("-loss"), order("age"), order("name")
    (('last_loss', True), ('written', True), ('name', False))
    """
    name = sort.removeprefix("-")
    if name not in NAMES or name == "config":
        raise BadArgument(f"--sort is {sort!r}; expected one of {', '.join(NAMES)}, or -NAME for the largest first.")
    # The youngest was written last.
    return NAMES[name], sort.startswith("-") != (name == "age")


def rows_below(folder: Path, quick: bool = False) -> list[RunRow]:
    """The rows of all runs below a folder, with a bar on a terminal while many are computed."""
    columns = (TextColumn("reading runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = None

        def move(done: int, total: int) -> None:
            nonlocal task
            if total < LEAST_FOR_A_BAR:
                return
            if task is None:
                task = progress.add_task("", total=total)
            progress.update(task, completed=done)

        return list_runs(folder, compute=not quick, progress=move)
