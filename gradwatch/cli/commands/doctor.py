"""`gradwatch doctor`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict

import typer

from gradwatch.cli.output import NOT_HEALTHY, print_json, print_view, screen
from gradwatch.script.doctor import examine
from gradwatch.script.launch import prepare
from gradwatch.views.console.doctor import diagnosis


def doctor(arguments: list[str], steps: int, module: bool, json: bool = False) -> None:
    """Run a script for a few steps, print what was observed, and exit with 1 or 3 if something is wrong.

    With ``json`` standard output holds nothing else: what the script prints goes to standard error.
    """
    program, _ = prepare(arguments, None, module)
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        found = examine(program, steps)
    if json:
        print_json(asdict(found) | {"has_problem": found.has_problem})
    else:
        print_view(diagnosis(found, screen()))
    if found.failed:
        raise typer.Exit(1)
    if found.has_problem:
        raise typer.Exit(NOT_HEALTHY)
