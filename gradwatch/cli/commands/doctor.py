"""`gradwatch doctor`."""

from __future__ import annotations

import typer

from gradwatch.cli.output import NOT_HEALTHY, print_view, screen
from gradwatch.script.doctor import examine
from gradwatch.script.launch import prepare
from gradwatch.views.console.doctor import diagnosis


def doctor(arguments: list[str], steps: int, module: bool) -> None:
    """Run a script for a few steps, print what was observed, and exit with 1 or 3 if something is wrong."""
    program, _ = prepare(arguments, None, module)
    found = examine(program, steps)
    print_view(diagnosis(found, screen()))
    if found.failed:
        raise typer.Exit(1)
    if found.has_problem:
        raise typer.Exit(NOT_HEALTHY)
