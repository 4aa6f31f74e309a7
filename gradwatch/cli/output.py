"""Opening runs and printing views, for the commands."""

from __future__ import annotations

import gc
from pathlib import Path

import typer
from rich.console import Console, RenderableType

from gradwatch.analysis.history import newest
from gradwatch.analysis.run import Run
from gradwatch.views.console.screen import Screen
from gradwatch.views.json import dumps

NOT_HEALTHY = 3
"""Exit code of `check` and `doctor` if they find a fault."""


def open_run(path: Path | None) -> Run:
    """The run at a path, or the newest under ``runs/``.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: there is no readable run.
    """
    gc.freeze()  # imported modules stay: with many rows, each collection would scan all of them
    return Run(newest() if path is None else path)


def console() -> Console:
    """Standard output, without rich's own highlighting of numbers and paths."""
    return Console(highlight=False, soft_wrap=False)


def screen() -> Screen:
    """What standard output can show."""
    return Screen.of(console())


def print_view(view: RenderableType) -> None:
    """Print to standard output."""
    console().print(view)


def print_json(value: object) -> None:
    """Print valid JSON to standard output."""
    typer.echo(dumps(value))
