"""Opening runs and printing views, for the commands."""

from __future__ import annotations

import gc
from pathlib import Path

import typer

from gradwatch.analysis.history import newest
from gradwatch.analysis.places import the_run
from gradwatch.analysis.run import Run
from gradwatch.cli.printing import console, print_lines, print_view, screen
from gradwatch.views.encode import dumps

__all__ = ["NOT_HEALTHY", "console", "open_run", "print_json", "print_view", "screen"]

NOT_HEALTHY = 3
"""Exit code of `check` and `doctor` if they find a fault."""


def open_run(path: Path | None) -> Run:
    """The run at a path, the only one below it, or the newest under ``runs/``.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: there is no readable run, or several are below the path.
    """
    gc.freeze()  # imported modules stay: with many rows, each collection would scan all of them
    found = newest() if path is None else the_run(path)
    if path is not None and found != path:
        print_lines(f"gradwatch: the run below {path} is {found}", err=True)
    return Run(found)


def print_json(value: object) -> None:
    """Print valid JSON to standard output."""
    typer.echo(dumps(value))
