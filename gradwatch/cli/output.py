"""Opening runs and printing views, for the commands."""

from __future__ import annotations

import gc
from pathlib import Path

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from gradwatch.analysis.history import newest
from gradwatch.analysis.places import the_run
from gradwatch.analysis.run import Run
from gradwatch.views.console.screen import Screen
from gradwatch.views.json import dumps

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
        typer.echo(f"gradwatch: the run below {path} is {found}", err=True)
    return Run(found)


def console() -> Console:
    """Standard output, without rich's own highlighting of numbers and paths."""
    return Console(highlight=False, soft_wrap=False)


def screen() -> Screen:
    """What standard output can show."""
    return Screen.of(console())


def print_view(view: RenderableType) -> None:
    """Print to standard output; lines of a view that are too long for the terminal are folded between words."""
    out = console()
    if isinstance(view, Group) and all(isinstance(line, Text) for line in view.renderables):
        on = Screen.of(out)
        view = Group(*(part for line in view.renderables if isinstance(line, Text) for part in on.fold(line)))
    out.print(view)


def print_json(value: object) -> None:
    """Print valid JSON to standard output."""
    typer.echo(dumps(value))
